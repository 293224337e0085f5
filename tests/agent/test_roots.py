"""Paths that a server names: only what lies inside an allowed folder, every link followed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.roots import BadRoot, PathRefused, allowed_roots, resolve_inside


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    (folder / "inner").mkdir(parents=True)
    (folder / "rows.jsonl").write_text("{}\n")
    (folder / "inner" / "rows.jsonl").write_text("{}\n")
    (tmp_path / "secret.txt").write_text("secret\n")
    return folder


@pytest.mark.parametrize("name", ["rows.jsonl", "inner/rows.jsonl", "inner/../rows.jsonl"])
def test_a_file_inside_is_found(root: Path, name: str) -> None:
    assert resolve_inside(f"{root}/{name}", [root], "file") == (root / name).resolve()


@pytest.mark.parametrize("name", ["../secret.txt", "inner/../../secret.txt", "/etc/passwd"])
def test_a_file_outside_is_refused_with_a_sentence(root: Path, name: str) -> None:
    path = name if name.startswith("/") else f"{root}/{name}"
    with pytest.raises(PathRefused, match=r"is outside the folders this agent may use \(--root …\)"):
        resolve_inside(path, [root], "file")


def test_a_link_that_leads_out_is_refused(root: Path) -> None:
    (root / "link.txt").symlink_to(root.parent / "secret.txt")
    (root / "folder").symlink_to(root.parent)
    for path in (root / "link.txt", root / "folder" / "secret.txt"):
        with pytest.raises(PathRefused, match="outside"):
            resolve_inside(str(path), [root], "file")


def test_a_link_within_the_root_is_followed(root: Path) -> None:
    (root / "alias.jsonl").symlink_to(root / "inner" / "rows.jsonl")
    assert resolve_inside(str(root / "alias.jsonl"), [root], "file") == root / "inner" / "rows.jsonl"


def test_a_neighbour_with_the_same_beginning_is_outside(root: Path) -> None:
    neighbour = root.parent / "models-private"
    neighbour.mkdir()
    (neighbour / "rows.jsonl").write_text("{}")
    with pytest.raises(PathRefused, match="outside"):
        resolve_inside(str(neighbour / "rows.jsonl"), [root], "file")


def test_whether_something_exists_outside_is_not_told(root: Path) -> None:
    said = []
    for name in ("secret.txt", "nothing.txt"):
        with pytest.raises(PathRefused) as refusal:
            resolve_inside(f"{root}/../{name}", [root], "file")
        said.append(str(refusal.value).replace(name, "X"))
    assert said[0] == said[1]


def test_what_is_missing_inside_is_named(root: Path) -> None:
    with pytest.raises(PathRefused, match="There is no file"):
        resolve_inside(f"{root}/absent.jsonl", [root], "file")


def test_a_folder_is_no_data_file_and_a_file_no_model(root: Path) -> None:
    with pytest.raises(PathRefused, match="is not a file"):
        resolve_inside(f"{root}/inner", [root], "file")
    with pytest.raises(PathRefused, match="is not a folder"):
        resolve_inside(f"{root}/rows.jsonl", [root], "folder")


def test_a_pipe_is_no_data_file(root: Path) -> None:
    os.mkfifo(root / "pipe")
    with pytest.raises(PathRefused, match="is not a file"):
        resolve_inside(f"{root}/pipe", [root], "file")


@pytest.mark.parametrize(
    "text", ["", "rows.jsonl", "./rows.jsonl", "C:\\rows", "\\\\host\\share", "a\0b", "/a\nb", "/" + "x" * 5000]
)
def test_texts_that_are_no_full_path_are_refused(root: Path, text: str) -> None:
    with pytest.raises(PathRefused):
        resolve_inside(text, [root], "file")


@pytest.mark.parametrize("name", ["x" * 300, "rows.jsonl/inner", "half \ud800", "/\udfff"])
def test_names_that_no_disk_can_hold_are_refused_with_a_sentence(root: Path, name: str) -> None:
    for roots in ([root], []):
        with pytest.raises(PathRefused) as refusal:
            resolve_inside(f"{root}/{name}", roots, "file")
        str(refusal.value).encode()


@pytest.fixture
def closed(root: Path) -> Iterator[None]:
    """The inner folder may not be entered, and whoever asks is not root, who may enter every folder."""
    (root / "inner").chmod(0)
    before = os.geteuid()
    if before == 0:
        os.seteuid(65_534)
    yield
    os.seteuid(before)
    (root / "inner").chmod(0o700)


def test_a_folder_that_may_not_be_entered_is_refused(root: Path, closed: None) -> None:
    with pytest.raises(PathRefused, match="cannot be"):
        resolve_inside(f"{root}/inner/rows.jsonl", [root], "file")


def test_a_circle_of_links_is_refused(root: Path) -> None:
    (root / "a").symlink_to(root / "b")
    (root / "b").symlink_to(root / "a")
    with pytest.raises(PathRefused):
        resolve_inside(f"{root}/a", [root], "file")


def test_without_roots_nothing_is_allowed(root: Path) -> None:
    with pytest.raises(PathRefused, match="started without any"):
        resolve_inside(f"{root}/rows.jsonl", [], "file")


@given(st.text(max_size=60))
def test_no_text_ever_resolves_to_something_outside(text: str) -> None:
    root = Path("/nonexistent-root-of-a-test")
    with pytest.raises(PathRefused):
        resolve_inside(text, [root], "file")
    with pytest.raises(PathRefused):
        resolve_inside(f"{root}/../{text}", [root], "file")


def test_a_tilde_in_a_path_is_the_home_of_the_agent(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(root.parent))
    assert resolve_inside("~/models/rows.jsonl", [root], "file") == root / "rows.jsonl"


def test_roots_are_resolved(root: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(root)
    home = tmp_path / "home"
    home.mkdir()
    assert allowed_roots([str(tmp_path / "link")], home, home / ".trainyard") == [root]


@pytest.mark.parametrize("text", ["/", "/etc", "/usr/lib", "/proc", "/var"])
def test_system_folders_can_never_be_roots(text: str, tmp_path: Path) -> None:
    with pytest.raises(BadRoot):
        allowed_roots([text], tmp_path, tmp_path / ".trainyard")


def test_neither_home_nor_what_holds_it_nor_the_agents_folder_can_be_roots(tmp_path: Path) -> None:
    home = tmp_path / "home"
    own = home / ".trainyard"
    (own / "jobs").mkdir(parents=True)
    for folder in (home, tmp_path, own, own / "jobs"):
        with pytest.raises(BadRoot, match="Name another folder|too wide"):
            allowed_roots([str(folder)], home, own)


def test_a_root_must_be_a_folder_that_is_there(root: Path, tmp_path: Path) -> None:
    with pytest.raises(BadRoot, match="mkdir -p"):
        allowed_roots([str(tmp_path / "absent")], tmp_path, tmp_path / ".trainyard")
    with pytest.raises(BadRoot, match="is a file"):
        allowed_roots([str(root / "rows.jsonl")], tmp_path / "home", tmp_path / ".trainyard")
