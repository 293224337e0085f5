"""The first program inside a box: it takes its own rights away, then becomes the script.

It is handed to an interpreter as text (`python -I -S -c`), so it uses the standard library alone and imports nothing of
this package. Its argument is the descriptor of its order (`Box._order`). What it has to say goes to a descriptor that the
script does not get: `ready {json}`, or `failed KIND sentence`.
"""

from __future__ import annotations

import base64
import ctypes
import json
import os
import resource
import struct
import sys
from pathlib import Path
from typing import Any

_NO_NEW_PRIVILEGES, _DROP_FROM_BOUNDS, _SET_SECCOMP, _FILTER = 38, 24, 22, 2
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # landlock(7), the same numbers on x86_64 and aarch64
_VERSION, _PATH_BENEATH = 1, 1
_LAST_CAPABILITY = 63
# Rights on files by the version of Landlock that brought them: 16 bits up to MAKE_SYM and REFER, TRUNCATE, IOCTL_DEV.
_RIGHTS = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1, 4: (1 << 15) - 1, 5: (1 << 16) - 1}
_EXECUTE, _WRITE, _READ_FILE, _READ_FOLDER = 1, 2, 4, 8
_MAKE_DEVICE = (1 << 6) | (1 << 11)
_FILE_RIGHTS = _EXECUTE | _WRITE | _READ_FILE | (1 << 14) | (1 << 15)
_ALL_TCP, _ALL_SCOPES = 3, 3  # bind and connect; abstract sockets and signals


class _Failed(Exception):
    pass


def main(given: str) -> int:
    with open(int(given), encoding="utf-8") as file:
        order = json.load(file)
    told = order["told"]
    os.set_inheritable(told, False)  # closed by a successful exec
    if order["gate"] is not None:  # until this process is where it is counted
        os.read(order["gate"], 1)
        os.close(order["gate"])
    try:
        done = _restrict(order)
        os.chdir(order["cwd"])
    except OSError as error:
        _say(told, f"failed file {error.strerror}: {order['cwd']}")
        return 127
    except _Failed as error:
        _say(told, f"failed sandbox {error}")
        return 127
    _say(told, "ready " + json.dumps(done))
    os.dup2(1, 2)
    try:
        os.execvpe(order["argv"][0], order["argv"], order["environment"])  # noqa: S606 - this is what a launcher does
    except OSError as error:
        _say(told, f"failed file {error.strerror}: {order['argv'][0]}")
    return 127


def _restrict(order: dict[str, Any]) -> dict[str, int]:
    libc = ctypes.CDLL(None, use_errno=True)
    for name, most in order["rlimits"].items():
        number = getattr(resource, f"RLIMIT_{name}")
        _, hard = resource.getrlimit(number)
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(number, (most, most))
    if order["uid"] is not None:
        _become(order["uid"], libc)
    if libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0) != 0:
        raise _Failed("no_new_privs was refused")
    landlock = _landlock(order, libc) if order["landlock"] else 0
    if order["seccomp"]:
        _filter(base64.b64decode(order["seccomp"]), libc)
    return {"landlock": landlock}


def _become(uid: int, libc: ctypes.CDLL) -> None:
    """An ordinary user for good: no groups, no capability in any set."""
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    for capability in range(_LAST_CAPABILITY):
        libc.prctl(_DROP_FROM_BOUNDS, capability, 0, 0, 0)  # those that do not exist or are gone answer an error
    os.setresuid(uid, uid, uid)
    if os.getresuid() != (uid, uid, uid) or os.getgroups():
        raise _Failed("the user could not be changed")


def _landlock(order: dict[str, Any], libc: ctypes.CDLL) -> int:
    """Handle every right the kernel knows; read everywhere below `readable`, write below `writable`. The ABI's version."""
    version = libc.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint(_VERSION))
    if version < 1:
        if order["landlock"] == "must":
            raise _Failed("this kernel has no Landlock")
        return 0
    rights = _RIGHTS[min(version, 5)]
    tcp = _ALL_TCP if version >= 4 and not order["network"] else 0
    scopes = _ALL_SCOPES if version >= 6 else 0
    fields = struct.pack("<QQQ", rights, tcp, scopes)[: 8 if version < 4 else 16 if version < 6 else 24]
    ruleset = libc.syscall(_CREATE_RULESET, fields, ctypes.c_size_t(len(fields)), ctypes.c_uint(0))
    if ruleset < 0:
        raise _Failed(f"Landlock made no ruleset (error {ctypes.get_errno()})")
    reading = _EXECUTE | _READ_FILE | _READ_FOLDER
    for path in order["readable"]:
        _allow(libc, ruleset, path, reading & rights)
    for path in order["writable"]:
        _allow(libc, ruleset, path, rights & ~_MAKE_DEVICE)
    if libc.syscall(_RESTRICT_SELF, ruleset, ctypes.c_uint(0)) != 0:
        raise _Failed(f"Landlock was refused (error {ctypes.get_errno()})")
    os.close(ruleset)
    return version


def _allow(libc: ctypes.CDLL, ruleset: int, path: str, rights: int) -> None:
    try:
        target = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return  # what is not there needs no rule
    if not Path(path).is_dir():
        rights &= _FILE_RIGHTS
    rule = struct.pack("<Qi", rights, target)
    if libc.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, rule, ctypes.c_uint(0)) != 0:
        raise _Failed(f"Landlock refused the rule for {path} (error {ctypes.get_errno()})")
    os.close(target)


def _filter(program: bytes, libc: ctypes.CDLL) -> None:
    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_char_p)]

    given = Program(len(program) // 8, program)
    if libc.prctl(_SET_SECCOMP, _FILTER, ctypes.byref(given), 0, 0) != 0:
        raise _Failed(f"seccomp refused the filter (error {ctypes.get_errno()})")


def _say(told: int, sentence: str) -> None:
    os.write(told, sentence.encode("utf-8", "replace") + b"\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
