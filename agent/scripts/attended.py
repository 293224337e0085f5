"""A script's folder that is looked into while something else has to go on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from os import stat_result

from .found_files import DEEPEST, Folder


@dataclass(frozen=True)
class AttendedFolder(Folder):
    """`attend` is called for each file: a long look holds up nothing that is due meanwhile, and ends where it raises."""

    attend: Callable[[], None] = field(kw_only=True)

    def files(self, deepest: int = DEEPEST) -> Iterator[tuple[str, stat_result]]:
        for found in super().files(deepest):
            self.attend()
            yield found


def attended(folder: Folder, attend: Callable[[], None]) -> AttendedFolder:
    """The same folder, attended to."""
    return AttendedFolder(folder.top, folder.inside, attend=attend)
