"""Files that are either whole or not there: written aside, forced to disk, renamed."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent.errors import AgentFailed
from agent.files import sync


@contextmanager
def published(folder: Path) -> Iterator[Path]:
    """A new folder to fill; it takes the name `folder` in one rename when the block ends well, else it goes away.

    Whatever had that name before is replaced. AgentFailed if the disk is full: nothing half-written stays.
    """
    aside = folder.with_name(folder.name + ".partial")
    old = folder.with_name(folder.name + ".old")
    try:
        for leftover in (aside, old):
            shutil.rmtree(leftover, ignore_errors=True)
        aside.mkdir(parents=True)
        yield aside
        _sync_tree(aside)
        if folder.exists():
            folder.rename(old)
        aside.rename(folder)
        sync(folder.parent)
    except OSError as failure:
        if failure.errno in (errno.ENOSPC, errno.EDQUOT):
            raise AgentFailed(
                f"The disk is full ({shutil.disk_usage(folder.parent).free:,} bytes are free): {folder.name} could not be "
                "written. What was saved before it is kept. "
                "Free some space, then resume the job."
            ) from failure
        raise
    finally:
        for leftover in (aside, old):
            shutil.rmtree(leftover, ignore_errors=True)


def _sync_tree(folder: Path) -> None:
    for path in sorted(folder.rglob("*"), reverse=True):
        sync(path)
    sync(folder)
