"""The system calls a box may not make, as a filter for the kernel: classic BPF, built here byte by byte.

A filter is a list of 8-byte instructions (`struct sock_filter`: code, jump if true, jump if false, operand) over
`struct seccomp_data` (number, architecture, instruction pointer, six arguments), seccomp(2). What is denied looks to the
script like a right it does not have; `clone3` and io_uring look like an older kernel, so that libraries fall back.
"""

from __future__ import annotations

import errno
import platform
import struct

_INSTRUCTION = struct.Struct("<HBBI")
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE = 0, 4  # offsets in seccomp_data
_ALLOW, _KILL, _ERROR = 0x7FFF0000, 0x80000000, 0x00050000
_X32 = 0x40000000  # numbers of the x32 calls, which share the architecture of the 64-bit ones
_FIRST_UNKNOWN = 470  # calls newer than this list are answered as an older kernel would
_NAMESPACES = 0x7E020000  # CLONE_NEW*: cgroup, uts, ipc, user, pid, net, mount
_STUFF_TERMINAL = (0x5412, 0x541C)  # TIOCSTI and TIOCLINUX put characters into a terminal
_UNIX, _INET, _INET6, _NETLINK = 1, 2, 10, 16

ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
CLONE, SOCKET, IOCTL = (56, 220), (41, 198), (16, 29)

# name: (number on x86_64, number on aarch64); None: there is no such call
FORBIDDEN: dict[str, tuple[int | None, int | None]] = {
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "process_madvise": (440, 440), "kcmp": (312, 272), "pidfd_getfd": (438, 438),
    "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39), "pivot_root": (155, 41),
    "chroot": (161, 51), "fsopen": (430, 430), "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433),
    "move_mount": (429, 429), "open_tree": (428, 428), "open_tree_attr": (467, 467), "mount_setattr": (442, 442),
    "statmount": (457, 457), "listmount": (458, 458), "bpf": (321, 280), "perf_event_open": (298, 241),
    "userfaultfd": (323, 282), "keyctl": (250, 219), "add_key": (248, 217), "request_key": (249, 218),
    "kexec_load": (246, 104), "kexec_file_load": (320, 294), "init_module": (175, 105), "finit_module": (313, 273),
    "delete_module": (176, 106), "swapon": (167, 224), "swapoff": (168, 225), "reboot": (169, 142), "acct": (163, 89),
    "quotactl": (179, 60), "quotactl_fd": (443, 443), "syslog": (103, 116), "settimeofday": (164, 170),
    "clock_settime": (227, 112), "clock_adjtime": (305, 266), "adjtimex": (159, 171), "sethostname": (170, 161),
    "setdomainname": (171, 162), "iopl": (172, None), "ioperm": (173, None), "modify_ldt": (154, None),
    "lookup_dcookie": (212, 18), "nfsservctl": (180, 42), "vhangup": (153, 58), "fanotify_init": (300, 262),
    "fanotify_mark": (301, 263), "migrate_pages": (256, 238), "move_pages": (279, 239),
    "open_by_handle_at": (304, 265), "name_to_handle_at": (303, 264), "memfd_secret": (447, 447),
    "uselib": (134, None), "ustat": (136, None), "sysfs": (139, None), "_sysctl": (156, None),
    # System V: memory, semaphores and messages that belong to no process, so nobody sees them where nobody counts.
    "shmget": (29, 194), "semget": (64, 190), "msgget": (68, 186),
    "create_module": (174, None), "get_kernel_syms": (177, None), "query_module": (178, None),
}  # fmt: skip
MISSING: dict[str, tuple[int, int]] = {
    "clone3": (435, 435), "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427),
}  # fmt: skip


def is_known(machine: str | None = None) -> bool:
    """Whether a filter can be built for this kind of processor."""
    return (machine or platform.machine()) in ARCHITECTURES


def program(with_network: bool = True, machine: str | None = None) -> bytes:
    """The filter. `with_network` lets it make internet sockets, for a box with an empty network of its own.

    Raises KeyError for a processor that `is_known` does not know.
    """
    machine = machine or platform.machine()
    column = 0 if machine == "x86_64" else 1
    lines = [_load(_ARCHITECTURE), _if(_EQUAL, ARCHITECTURES[machine], 1), _answer(_KILL), _load(_NUMBER)]
    if machine == "x86_64":
        lines += [*_when(_AT_LEAST, _X32, _KILL)]
    lines += _when(_AT_LEAST, _FIRST_UNKNOWN, _ERROR | errno.ENOSYS)
    for numbers in FORBIDDEN.values():
        if (number := numbers[column]) is not None:
            lines += _when(_EQUAL, number, _ERROR | errno.EPERM)
    for missing in MISSING.values():
        lines += _when(_EQUAL, missing[column], _ERROR | errno.ENOSYS)
    lines += _call(CLONE[column], [_load(_argument(0)), *_when(_ANY_BIT, _NAMESPACES, _ERROR | errno.EPERM)])
    terminal = [line for request in _STUFF_TERMINAL for line in _when(_EQUAL, request, _ERROR | errno.EPERM)]
    lines += _call(IOCTL[column], [_load(_argument(1)), *terminal])
    lines += _call(SOCKET[column], _sockets(with_network))
    return b"".join([*lines, _answer(_ALLOW)])


def _sockets(with_network: bool) -> list[bytes]:
    """Local sockets always; the internet's families and the questions about the box's own network when there is one."""
    refuse = [_answer(_ERROR | errno.EAFNOSUPPORT)]
    allowed = (_UNIX, _INET, _INET6) if with_network else (_UNIX,)
    lines = [_load(_argument(0))]
    for family in allowed:
        lines += _when(_EQUAL, family, _ALLOW)
    if with_network:  # NETLINK_ROUTE is protocol 0; the other protocols reach into the kernel
        lines += [_if(_EQUAL, _NETLINK, 1), *refuse, _load(_argument(2)), *_when(_EQUAL, 0, _ALLOW)]
    return lines + refuse


def _call(number: int, body: list[bytes]) -> list[bytes]:
    """Run `body` for this call, then go on; the number is loaded again behind it."""
    return [_unless(_EQUAL, number, len(body) + 1), *body, _load(_NUMBER)]


def _when(test: int, operand: int, verdict: int) -> list[bytes]:
    return [_unless(test, operand, 1), _answer(verdict)]


def _if(test: int, operand: int, skip: int) -> bytes:
    return _INSTRUCTION.pack(test, skip, 0, operand)


def _unless(test: int, operand: int, skip: int) -> bytes:
    return _INSTRUCTION.pack(test, 0, skip, operand)


def _load(offset: int) -> bytes:
    return _INSTRUCTION.pack(_LOAD, 0, 0, offset)


def _answer(verdict: int) -> bytes:
    return _INSTRUCTION.pack(_RETURN, 0, 0, verdict)


def _argument(number: int) -> int:
    """The low half of an argument, where every value tested here lies (little endian)."""
    return 16 + 8 * number
