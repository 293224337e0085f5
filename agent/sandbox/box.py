"""A box: a folder, limits and walls; `start` runs a program in it.

Three processes stand between the caller and the script: bwrap, which holds the namespaces and dies with the caller;
bwrap again as the first process inside, which ends when the script ends and takes everything else along; and the script,
which was the launcher before. Under root the script becomes a user that owns nothing but its work folder; otherwise
a user namespace gives it a number of its own and the rights of the caller.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

from .. import settings
from . import cgroups, mounts, seccomp, spawning
from .limits import Limits, Unavailable
from .running import Running

INSIDE_UID = 1000  # in a user namespace
_FIRST_UID, _UIDS = 1_900_000_000, 65_536  # nobody gives these out (systemd, "Users, Groups, UIDs and GIDs")
_NEEDED_BY_ROOT = (0, 6, 7, 8, 21)  # CAP_CHOWN, CAP_SETGID, CAP_SETUID, CAP_SETPCAP, CAP_SYS_ADMIN
NO_GROUP = (
    "No control group can be made, so memory and processes cannot be limited as lane 2 promises. Give the worker a "
    "delegated control group (systemd: Delegate=yes and DelegateSubgroup=worker), or set SANDBOX_LANE=1."
)
_MACHINE_FILES = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/proc", "/dev", "/sys/devices/system",
                  "/etc/ld.so.cache", "/etc/alternatives", "/etc/ssl", "/etc/localtime", "/etc/nsswitch.conf",
                  "/etc/passwd", "/etc/group", "/etc/hosts")  # fmt: skip
_WRITABLE_NODES = (
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/random",
    "/dev/urandom",
    "/dev/tty",
    "/dev/pts",
    "/dev/ptmx",
)


@dataclass(frozen=True)
class Walls:
    """Which walls a box uses. `uid`: whom the launcher becomes, None when the user namespace decides it."""

    bubblewrap: bool
    landlock: str  # "must", "may", or "" for not at all
    group: str  # a control group: "must", "may", or ""
    uid: int | None


def walls_of(lane: int) -> Walls:
    """The walls of a lane. Lane 1 uses Landlock and control groups where it finds them, and promises neither."""
    if lane not in (0, 1, 2):
        raise Unavailable(f"There is no sandbox lane {lane} here.")
    if lane == 0 and os.geteuid() == 0:
        raise Unavailable(
            "Without bubblewrap, code of others cannot run under root, who may change the modes of any file. Start the "
            "worker as an ordinary user, or install bubblewrap: apt install bubblewrap"
        )
    must = "must" if lane == 2 else "may"
    return Walls(lane > 0, "must" if lane == 0 else must, must, spare_uid())


class Box:
    """A place for one program at a time; it may be started again when the program before has ended.

    `folder` is what the program may write; its owner becomes the box's user under root. `readable` are shown at their
    own paths, `pass_paths` at the paths that are their keys; neither can be written. The environment is cleared but for
    `environment` and a few defaults that it may override. Without `gpus` there is no GPU.
    """

    def __init__(
        self, folder: Path, limits: Limits, lane: int, *, readable: Sequence[Path] = (),
        pass_paths: Mapping[str, Path] | None = None, environment: Mapping[str, str] | None = None,
        gpus: Sequence[int] | None = None, walls: Walls | None = None,
    ) -> None:  # fmt: skip
        self.folder, self.limits, self.lane, self.gpus = folder.resolve(), limits, lane, gpus
        self.walls = walls or walls_of(lane)
        self._readable = [*mounts.interpreter(), *readable]
        self._pass_paths = dict(pass_paths or {})
        shown = [*(path.absolute() for path in self._readable), *(Path(name) for name in self._pass_paths)]
        self.work = mounts.work(shown) if self.walls.bubblewrap else str(self.folder)
        self.environment = dict(environment or {})

    def inside(self, path: Path) -> str:
        """A path of this machine as the program sees it. Raises ValueError for one that it does not see."""
        found = path.resolve()
        if found.is_relative_to(self.folder):
            return str(Path(self.work) / found.relative_to(self.folder))
        for name, given in self._pass_paths.items():
            if found.is_relative_to(given.resolve()):
                return str(
                    (Path(name) if self.walls.bubblewrap else given.resolve()) / found.relative_to(given.resolve())
                )
        if any(found.is_relative_to(given.resolve()) for given in self._readable):
            return str(path.absolute())
        raise ValueError(f"{path} is not part of the box.")

    def start(self, argv: Sequence[str], stdout: int, cwd: str | None = None) -> Running:
        """Run a program; what it prints, errors too, goes to the descriptor `stdout`.

        Call it from a thread that lives as long as the program: the kernel ends the box with that thread. Raises
        Unavailable when a wall that the lane promises cannot be built.
        """
        self._hand_over()
        group = cgroups.make(self.limits) if self.walls.group else None
        scratch: str | None = None
        try:
            if group is None and self.walls.group == "must":
                raise Unavailable(NO_GROUP)
            if not self.walls.bubblewrap:
                scratch = tempfile.mkdtemp(prefix="trainyard-box-")
            order = self._order(argv, cwd or self.work, group, scratch)
            return self._begin(order, stdout, group, scratch)
        except BaseException:
            if group is not None:
                group.close()
            if scratch is not None:
                shutil.rmtree(scratch, ignore_errors=True)
            raise

    def _begin(self, order: dict[str, Any], stdout: int, group: cgroups.Group | None, scratch: str | None) -> Running:
        with contextlib.ExitStack() as stack:
            status, status_end = spawning.pipe(stack, reading_stays=True)
            said, said_end = spawning.pipe(stack, reading_stays=True)
            gate_end, gate = spawning.pipe(stack)
            passed, command = [gate_end, said_end], []
            order["told"] = said_end.fileno()
            if self.walls.bubblewrap:
                files = {name: spawning.holding(stack, text.encode()) for name, text in self._files().items()}
                rules = spawning.holding(stack, seccomp.program())
                passed += [status_end, rules, *files.values()]
                command = [*self._bubblewrap(files), "--json-status-fd", str(status_end.fileno()),
                           "--block-fd", str(gate_end.fileno()), "--seccomp", str(rules.fileno()), "--"]  # fmt: skip
            else:
                order["gate"] = gate_end.fileno()
            given = spawning.holding(stack, json.dumps(order).encode())  # longer than an argument may be
            passed.append(given)
            command += [sys.executable, "-I", "-S", "-c", spawning.launcher(), str(given.fileno())]
            process, told = spawning.spawn(command, stdout, passed, self._mark())
            running = Running(process, (told, said, status), self.folder, self.limits, group, self._mark(), scratch)
            try:
                if self.walls.bubblewrap:
                    status_end.close()
                    running.first = spawning.first_process(status, running)
                if group is not None:
                    group.add(running.first)
                gate.write(b"x")
            except BaseException as error:
                running.close()
                if isinstance(error, OSError):
                    raise Unavailable(f"The box could not be put into its control group: {error}.") from error
                raise
        return running

    def _order(self, argv: Sequence[str], cwd: str, group: cgroups.Group | None, scratch: str | None) -> dict[str, Any]:
        """What the launcher is told."""
        walled = self.walls.bubblewrap
        writable = [self.work, *(mounts.SCRATCH if walled else (str(scratch), "/dev/shm")), *_WRITABLE_NODES]  # noqa: S108
        writable += [f"/dev/{name}" for name in mounts.driver_nodes(self.gpus)]
        shown = [str(path.resolve()) for path in (*self._readable, *self._pass_paths.values())]
        return {
            "argv": list(argv), "cwd": cwd, "environment": self.variables(scratch), "uid": self.walls.uid,
            "rlimits": self._rlimits(group), "landlock": self.walls.landlock, "network": walled, "gate": None, "told": None,
            "readable": ["/"] if walled else [*_MACHINE_FILES, *shown], "writable": writable,
            "seccomp": "" if walled else base64.b64encode(seccomp.program(with_network=False)).decode(),
        }  # fmt: skip

    def _rlimits(self, group: cgroups.Group | None) -> dict[str, int]:
        limits = {"CORE": 0, "NOFILE": self.limits.open_files, "FSIZE": self.limits.file_bytes, "MEMLOCK": 64 << 20}
        counted = group.limits if group else frozenset()
        if "pids" not in counted:
            before = 0 if self.walls.bubblewrap else _tasks_of_mine()  # there the user is the worker's
            limits["NPROC"] = self.limits.processes + cgroups.HELPERS + before
        if "memory" not in counted and self.gpus is None:  # CUDA reserves far more than it uses
            limits["DATA"] = 2 * self.limits.memory_bytes  # one process is stopped at once; the rest is watched
        return limits

    def variables(self, scratch: str | None = None) -> dict[str, str]:
        """The whole environment of the program."""
        own = {
            "PATH": os.pathsep.join(dict.fromkeys([str(Path(sys.executable).parent), "/usr/local/bin", "/usr/bin", "/bin"])),
            "HOME": scratch or mounts.HOME, "TMPDIR": scratch or "/tmp", "LANG": "C.UTF-8", "USER": "script",  # noqa: S108
            "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1",
        }  # fmt: skip
        if self.gpus is not None:
            own["CUDA_VISIBLE_DEVICES"] = ",".join(str(number) for number in range(len(self.gpus)))
        return {**own, **self.environment}

    def _bubblewrap(self, files: Mapping[str, FileIO]) -> list[str]:
        uid = self.walls.uid
        command = [spawning.bubblewrap(), "--die-with-parent", "--new-session", "--unshare-pid", "--unshare-ipc", "--unshare-net",
                   "--unshare-uts", "--unshare-cgroup-try", "--hostname", mounts.HOST_NAME, "--clearenv"]  # fmt: skip
        if uid is None:
            command += ["--unshare-user", "--disable-userns", "--uid", str(INSIDE_UID), "--gid", str(INSIDE_UID)]
        else:  # just enough to become that user; the launcher gives up these as well
            command += ["--cap-drop", "ALL", "--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID", "--cap-add",
                        "CAP_SETPCAP"]  # fmt: skip
        command += mounts.system(self.limits)
        if self.gpus is not None:
            command += mounts.graphics(self.gpus)
        for name, held in files.items():
            command += ["--perms", "0444", "--ro-bind-data", str(held.fileno()), name]
        command += mounts.shown(self._readable, self._pass_paths)
        command += ["--bind", str(self.folder), self.work, *mounts.closed(uid is None)]
        return [*command, "--chdir", "/"]

    def _files(self) -> dict[str, str]:
        return {**mounts.FILES, **mounts.people(INSIDE_UID if self.walls.uid is None else self.walls.uid)}

    def _mark(self) -> str:
        return self.environment.get(settings.JOB_MARK, "")

    def _hand_over(self) -> None:
        """Give the work folder to the box's user. Nothing of the box runs yet, and links are not followed."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.walls.uid is not None:
            user = f"{self.walls.uid}:{self.walls.uid}"
            command = ["chown", "-RhP", "--", user, str(self.folder)]
            done = subprocess.run(command, capture_output=True, text=True, check=False, env={"PATH": os.defpath})
            if done.returncode != 0:
                raise Unavailable(f"The work folder could not be handed over: {done.stderr.strip()[:300]}")


def spare_uid() -> int | None:
    """A user for a box of this process that owns nothing else; None when this process may not choose one.

    Another process takes another one, so that the kernel counts their processes apart.
    """
    if os.geteuid() != 0 or not _may(_NEEDED_BY_ROOT):
        return None
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/self/uid_map").read_text().splitlines():
            first, _, count = (int(part) for part in line.split())
            if first <= _FIRST_UID and _FIRST_UID + _UIDS <= first + count:
                return _FIRST_UID + os.getpid() % _UIDS
            if first == 0 and count > 2_000:  # a container with a range of its own: its last thousand
                return count - 1_001 + os.getpid() % 1_000
    return None


def _may(capabilities: Sequence[int]) -> bool:
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("CapEff:"):
                return all(int(line.split()[1], 16) >> number & 1 for number in capabilities)
    return False


def _tasks_of_mine() -> int:
    """Processes and threads of this user now."""
    total = 0
    for path in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if path.name.isdigit() and path.stat().st_uid == os.geteuid():
                total += sum(1 for _ in (path / "task").iterdir())
    return total
