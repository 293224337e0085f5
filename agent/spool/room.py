"""Room on the disk for a spool: how much it may use, and a reserve for the end of a job."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

BUDGET_BYTES = 1 << 30
KEEP_FREE_BYTES = 2 << 30
LEAST_BUDGET_BYTES = 64 << 20
RESERVE_BYTES = 4 << 20
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def is_full(error: OSError) -> bool:
    """Whether a write failed because there is no room, and not because the disk is broken."""
    return error.errno in _NO_ROOM


def is_over_budget(folder: Path, budget_bytes: int) -> bool:
    """Whether the segments take more than the budget, which is smaller when the disk itself is nearly full."""
    used = sum(path.stat().st_size for path in folder.glob("*.spool"))
    spare = used + shutil.disk_usage(folder).free - KEEP_FREE_BYTES
    return used > min(budget_bytes, max(spare, LEAST_BUDGET_BYTES))


class Reserve:
    """A little disk occupied from the start, to be given back when it is full: the end of a job must still fit."""

    def __init__(self, path: Path, is_wanted: bool) -> None:
        self._path = path
        if not is_wanted or path.exists() or not hasattr(os, "posix_fallocate"):
            return
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, RESERVE_BYTES)
        except OSError:
            path.unlink(missing_ok=True)
        finally:
            os.close(descriptor)

    def give_up(self) -> bool:
        """Free it; False when there was nothing to free."""
        if not self._path.exists():
            return False
        self._path.unlink(missing_ok=True)
        return True
