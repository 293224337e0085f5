"""The sample data set that is made from the standard library of the installed Python."""

from __future__ import annotations

import ast
import sysconfig
from pathlib import Path

import pytest

from agent import demo_data
from agent.formats import DataError, read


def a_library(folder: Path) -> Path:
    (folder / "test").mkdir(parents=True)
    (folder / "shapes.py").write_text(
        '''import never_imported

class Circle:
    @property
    def area(self):
        """Return the area of the
        circle in square metres

        More about it.
        """

        # Archimedes
        return 3.14159 * self.radius ** 2

    def undocumented(self):
        return self.radius * 2 * 3.14159

def one_line(x): "Return the same value again."; return x

def only_described():
    """Do nothing at all, and that very well."""

def example(x):
    """>>> example(1) gives the number two."""
    return x + 1 if x else None  # long enough to be taken
'''
    )
    (folder / "broken.py").write_text("def (:\n")
    (folder / "test" / "test_shapes.py").write_text((folder / "shapes.py").read_text())
    return folder


def test_row_asks_by_description_and_answers_with_the_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = a_library(tmp_path / "lib")
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(library))
    assert demo_data.build(tmp_path / "demo.jsonl") == 1
    [row] = read(tmp_path / "demo.jsonl")
    assert [message["content"] for message in row.messages or []] == [
        "Write the Python method Circle.area: Return the area of the circle in square metres.",
        "@property\ndef area(self):\n    # Archimedes\n    return 3.14159 * self.radius ** 2",
    ]


def test_python_without_sources_gets_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    with pytest.raises(DataError, match="without the sources"):
        demo_data.build(tmp_path / "demo.jsonl")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("demo") / "demo.jsonl"
    assert demo_data.build(path, rows=500, seed=3) == 500
    return path


def test_rows_are_usable_short_and_parse_as_python(demo: Path) -> None:
    reading = read(demo)
    rows = list(reading)
    assert (reading.format, len(rows), reading.bad_count) == ("prompt_completion", 500, 0)
    assert max(len(line) for line in demo.read_bytes().splitlines()) <= demo_data.ROW_BYTES
    sources = [(row.messages or [])[1]["content"] for row in rows]
    for source in sources:
        [function] = ast.parse(source).body
        assert isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        assert ast.get_docstring(function) is None
    assert len(set(demo.read_bytes().splitlines())) == 500


def test_same_seed_gives_the_same_bytes_and_another_seed_others(demo: Path, tmp_path: Path) -> None:
    demo_data.build(tmp_path / "same.jsonl", rows=500, seed=3)
    assert (tmp_path / "same.jsonl").read_bytes() == demo.read_bytes()
    demo_data.build(tmp_path / "other.jsonl", rows=500, seed=4)
    assert (tmp_path / "other.jsonl").read_bytes() != demo.read_bytes()
