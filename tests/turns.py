"""Which tests share a process, and which begin first, when several processes work (`tests/run.sh`).

What is started once for many tests (a whole yard, a filled one with Chromium, the peers) is started in one process alone,
every other file is a group of its own, and the groups that take longest begin first, so that none of them ends alone.
"""

from __future__ import annotations

import pytest
from xdist.scheduler import LoadScopeScheduling

# The beginning of a path -> who goes together; what comes first here begins first.
TOGETHER = {
    "tests/whole/test_outages.py": "a yard that loses its parts",
    "tests/whole/test_scripts.py": "a yard for scripts",
    "tests/whole/test_billing_faults.py": "renewals that are killed",
    "tests/whole/": "a whole yard",
    "tests/browser/": "pages",
    "tests/faults/": "the failure matrix",
    "tests/peers/": "peers",
    "tests/bad_input/test_frames.py": "a yard that is sent anything",
    "tests/bad_input/test_http.py": "a yard that is sent anything",
    "tests/services/test_ledger_machine.py": "the ledger",
    "tests/agent/recipes/test_language.py": "small models",
    "tests/agent/training/": "small models",
}
FIRST = (
    "a whole yard", "pages", "a yard that loses its parts", "the failure matrix", "renewals that are killed",
    "a yard for scripts", "peers", "small models", "the ledger", "a yard that is sent anything",
)  # fmt: skip


def group_of(test: str) -> str:
    """The group of a test by its id, `tests/.../test_x.py::test_y`."""
    return next((group for path, group in TOGETHER.items() if test.startswith(path)), test.split("::")[0])


def turn_of(item: pytest.Item) -> int:
    """How early its group begins: 0 is first."""
    group = group_of(item.nodeid)
    return FIRST.index(group) if group in FIRST else len(FIRST)


class Turns(LoadScopeScheduling):  # type: ignore[misc]
    """Gives out groups in the order in which the tests were collected."""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(nodeid)
