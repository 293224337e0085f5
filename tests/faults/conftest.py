"""What the tests under fire have measured is printed at the end, with or without -s."""

from __future__ import annotations

from collections.abc import Callable

import pytest

Figure = Callable[[str], None]
_figures: list[str] = []


@pytest.fixture
def figure(request: pytest.FixtureRequest) -> Figure:
    """`figure("row 3: again after 17 s")` notes what was measured."""

    def note(sentence: str) -> None:
        _figures.append(f"{request.node.path.stem}: {sentence}")
        print(sentence)

    return note


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if _figures:
        terminalreporter.section("measured under fire")
        for sentence in _figures:
            terminalreporter.write_line(sentence)
