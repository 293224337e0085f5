"""The path rules of three systems, as pure functions of text: none of this needs the system it is about."""

from __future__ import annotations

from pathlib import PureWindowsPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.paths import MAX_PATH, Flavour, fault, is_inside

FLAVOURS: list[Flavour] = ["linux", "macos", "windows"]


@pytest.mark.parametrize(
    ("text", "flavour"),
    [
        ("/home/a/rows.jsonl", "linux"), ("~/rows.jsonl", "linux"), ("/a/../b", "linux"), ("/with space/ü/a:b", "linux"),
        ("/Users/a/rows.jsonl", "macos"), ("~/rows.jsonl", "macos"), ("/a/con", "macos"), ("/a/b. ", "linux"),
        ("C:\\data\\rows.jsonl", "windows"), ("c:/data/rows.jsonl", "windows"), ("~\\rows.jsonl", "windows"),
        ("~/data/rows.jsonl", "windows"), ("C:\\data\\..\\rows.jsonl", "windows"), ("C:\\console\\com10.txt", "windows"),
        ("C:\\", "windows"), ("D:\\my data\\.hidden", "windows"),
    ],
)  # fmt: skip
def test_full_paths_are_taken(text: str, flavour: Flavour) -> None:
    assert fault(text, flavour) is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not a full path"), ("rows.jsonl", "not a full path"), ("./rows.jsonl", "not a full path"),
        ("~", "not a full path"), ("~root/x", "not a full path"), ("C:\\rows.jsonl", "not a full path"),
        ("\\\\host\\share", "not a full path"), ("/a\0b", "control characters"), ("/a\nb", "control characters"),
        ("/a\x7f", "control characters"), ("/" + "x" * MAX_PATH, "at most 4096"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("flavour", ["linux", "macos"])
def test_what_is_no_full_path_is_refused(text: str, said: str, flavour: Flavour) -> None:
    assert said in str(fault(text, flavour))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not a full path"), ("rows.jsonl", "not a full path"), ("data\\rows.jsonl", "not a full path"),
        ("C:rows.jsonl", "depends on the folder"), ("C:", "depends on the folder"), ("\\rows.jsonl", "not a full path"),
        ("/rows.jsonl", "not a full path"), ("~\\C:\\x", "depends on the folder"), ("~\\\\x", "depends on the folder"),
        ("\\\\host\\share\\rows.jsonl", "on the network"), ("//host/share/x", "on the network"), ("\\/host/share", "on the network"),
        ("\\\\?\\C:\\rows.jsonl", "names a device"), ("\\\\.\\PhysicalDrive0", "names a device"), ("//./COM1", "names a device"),
        ("C:\\data\\NUL", "device on Windows"), ("C:\\data\\con.txt", "device on Windows"), ("C:\\com1 .jsonl", "device on Windows"),
        ("C:\\LPT¹", "device on Windows"), ("C:\\aux\\rows.jsonl", "device on Windows"), ("C:\\conin$", "device on Windows"),
        ("C:\\rows.jsonl:hidden", "stream inside a file"), ("C:\\a::$DATA", "stream inside a file"), ("~\\ab:c", "stream"),
        ("C:\\data.\\rows", "ends in a dot or a space"), ("C:\\data\\rows.jsonl.", "ends in a dot"), ("C:\\a \\b", "ends in a"),
        ("C:\\a?b", "no name has on Windows"), ('C:\\a"b', "no name has"), ("C:\\a|b", "no name has"), ("C:\\*", "no name has"),
        ("C:\\a\0b", "control characters"), ("C:\\" + "x" * MAX_PATH, "at most 4096"),
    ],
)  # fmt: skip
def test_what_means_something_else_on_windows_is_refused(text: str, said: str) -> None:
    assert said in str(fault(text, "windows"))


@pytest.mark.parametrize(
    ("path", "folder", "flavour", "inside"),
    [
        ("/data/rows", "/data", "linux", True), ("/data", "/data", "linux", True), ("/data/", "/data", "linux", True),
        ("/database", "/data", "linux", False), ("/Data/rows", "/data", "linux", False), ("/data/../etc", "/data", "linux", False),
        ("/data/a/../b", "/data", "linux", False), ("/", "/data", "linux", False), ("data/rows", "/data", "linux", False),
        ("/Data/Rows", "/data", "macos", True), ("/u\u0308/x", "/ü", "macos", True), ("/STRASSE/x", "/straße", "macos", False),
        ("C:\\Data\\rows", "c:\\data", "windows", True), ("C:/data/rows", "C:\\data", "windows", True),
        ("C:\\data2", "C:\\data", "windows", False), ("D:\\data\\x", "C:\\data", "windows", False),
        ("C:data\\x", "C:\\data", "windows", False), ("\\data\\x", "C:\\data", "windows", False),
        ("C:\\data\\..\\windows", "C:\\data", "windows", False), ("C:\\ÄPFEL\\x", "c:\\äpfel", "windows", True),
        ("C:\\strasse\\x", "C:\\straße", "windows", False), ("\\\\?\\C:\\data\\x", "C:\\data", "windows", False),
    ],
)  # fmt: skip
def test_containment_goes_by_whole_parts(path: str, folder: str, flavour: Flavour, inside: bool) -> None:
    assert is_inside(path, folder, flavour) is inside


name = st.text(st.characters(exclude_characters='/\\:<>"|?*.', exclude_categories=["Cc", "Cs"]), min_size=1, max_size=8)
names = st.lists(name.filter(lambda text: text == text.strip()), max_size=4)


def built(parts: list[str], flavour: Flavour) -> str:
    return "C:\\" + "\\".join(parts) if flavour == "windows" else "/" + "/".join(parts)


@given(names, names, st.sampled_from(FLAVOURS))
def test_what_is_built_inside_is_inside(outer: list[str], inner: list[str], flavour: Flavour) -> None:
    assert is_inside(built([*outer, *inner], flavour), built(outer, flavour), flavour)


@given(names, names, st.sampled_from(FLAVOURS))
def test_what_climbs_is_never_inside(outer: list[str], inner: list[str], flavour: Flavour) -> None:
    assert not is_inside(built([*outer, "..", *inner], flavour), built(outer, flavour), flavour)


@given(names, names)
def test_on_linux_being_inside_is_beginning_with_the_same_parts(path: list[str], folder: list[str]) -> None:
    assert is_inside(built(path, "linux"), built(folder, "linux"), "linux") is (path[: len(folder)] == folder)


@given(st.text(max_size=40), st.sampled_from(FLAVOURS))
def test_any_text_is_answered_with_a_sentence_or_taken(text: str, flavour: Flavour) -> None:
    sentence = fault(text, flavour)
    assert sentence is None or sentence.endswith(".")


@given(st.text("abC:\\/.~ $", max_size=12))
def test_what_windows_takes_is_a_path_on_a_drive_and_nothing_else(text: str) -> None:
    if fault(text, "windows") is None and not text.startswith("~"):
        path = PureWindowsPath(text)
        assert path.is_absolute() and len(path.drive) == 2 and ":" not in text[2:]
