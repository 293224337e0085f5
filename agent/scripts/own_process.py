"""A script as a process of a member's machine: in its own folder, in a process group of its own, dead when its starter is."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from ..runner import processes
from ..sandbox import Verdict

# Runs before the script in the same process: asks the kernel to end it with its starter (Linux, prctl(2)), makes it the
# first to go when memory runs out, and becomes the script. Arguments: pid of the starter, then the command.
_LAUNCH = """\
import os, sys
if sys.platform == "linux":
    import ctypes
    ctypes.CDLL(None).prctl(1, 9, 0, 0, 0)
    if os.getppid() != int(sys.argv[1]):
        os._exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""


class OwnProcess:
    """The same verbs as `sandbox.Running`, for a script that runs with the rights of whoever started the agent."""

    def __init__(self, argv: Sequence[str], folder: Path, environment: Mapping[str, str], stdout: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _LAUNCH, str(os.getpid()), *argv],
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=dict(environment),
            process_group=0,
        )
        self.pid = self._process.pid
        self._memory_kills, self._was_short = processes.out_of_memory_kills(), False

    def poll(self) -> int | None:
        """None while it runs; then its exit code, or minus the number of the signal that ended it."""
        return self._process.poll()

    def heard(self, count: int) -> None:
        """Output has no limit on a machine of one's own."""

    def look(self) -> Verdict | None:
        """Nothing is limited on a machine of one's own; whether memory is short explains a kill afterwards."""
        self._was_short = self._was_short or processes.memory_is_short()
        return None

    def terminate(self) -> None:
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def verdict(self, code: int) -> Verdict:
        """How it ended, as a sentence for its owner."""
        if code == 0:
            return Verdict("ok", "", "", False)
        if code == -signal.SIGKILL and self._was_short and processes.out_of_memory_kills() > self._memory_kills:
            return Verdict(
                "memory_limit",
                "The system ended the script because the machine had run out of memory.",
                "Use smaller batches or a smaller model, then press Try again.",
                False,
            )
        again = "The end of the log shows why. Mend the script, then press Try again."
        if code < 0:
            name = signal.strsignal(-code) or "unknown"
            return Verdict("signal", f"The script was ended by signal {-code} ({name}).", again, False)
        return Verdict("exit", f"The script ended with exit code {code}.", again, False)

    def close(self) -> None:
        """End what is left of its group; whoever left the group is found by the runner's sweep."""
        self.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)

    def _signal(self, number: int) -> None:
        processes.signal_group(self.pid, number)
