"""Uploaded archives: what a careful reader takes, and each thing it must refuse, with nothing left behind."""

from __future__ import annotations

import io
import json
import os
import stat
import struct
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.scripts.archive import PACKED_AT, REFUSED, BadArchive, Bounds, Entry, contents, main, unpack

MIB = 1 << 20


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "out"


def pack(path: Path, files: dict[str, bytes], change: Callable[[zipfile.ZipInfo], None] | None = None) -> Path:
    """A zip with these entries; `change` may alter what is said of each."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            info = zipfile.ZipInfo("placeholder", (2026, 1, 1, 0, 0, 0))
            info.filename, info.compress_type, info.external_attr = (
                name,
                zipfile.ZIP_DEFLATED,
                (stat.S_IFREG | 0o644) << 16,
            )
            if name.endswith("/"):
                info.external_attr = (stat.S_IFDIR | 0o755) << 16 | 0x10
            if change is not None:
                change(info)
            archive.writestr(info, content)
    return path


def refusal(archive: Path, target: Path, bounds: Bounds | None = None) -> BadArchive:
    with pytest.raises(BadArchive) as refused:
        unpack(archive, target, bounds)
    assert not target.exists(), "something was left behind"
    message = refused.value.message
    assert message[0].isupper() and message.endswith(".") and "Traceback" not in message
    return refused.value


class TestWhatComesOut:
    def test_files_and_folders_as_they_were_and_nothing_unpacked_twice(self, tmp_path: Path, target: Path) -> None:
        inner = pack(tmp_path / "inner.zip", {"deep.txt": b"deep"}).read_bytes()
        files = {"project-main/": b"", "project-main/train.py": b"print(1)\n", "project-main/data/häuser.txt": b"x" * 5_000,
                 "project-main/inner.zip": inner, "project-main/empty": b""}  # fmt: skip
        archive = pack(tmp_path / "a.zip", files)
        wanted = [Entry(name, len(content)) for name, content in files.items() if not name.endswith("/")]
        assert contents(archive) == wanted
        assert unpack(archive, target) == wanted
        found = {str(path.relative_to(target)): path.read_bytes() for path in target.rglob("*") if path.is_file()}
        assert found == {entry.name: files[entry.name] for entry in wanted}
        assert {path.stat().st_mtime for path in target.rglob("*") if path.is_file()} == {PACKED_AT}

    def test_what_the_finder_of_macos_puts_beside_the_files_is_no_part_of_them(
        self, tmp_path: Path, target: Path
    ) -> None:
        beside = {".DS_Store": b"", "__MACOSX/._proj": b"", "__MACOSX/proj/._train.py": b"", "proj/._x": b"", "proj/a/.DS_Store": b""}  # fmt: skip
        archive = pack(tmp_path / "a.zip", {**beside, "__MACOSX/": b"", "proj/train.py": b"", "proj/a/b.py": b""})
        assert unpack(archive, target) == contents(archive) == [Entry("proj/train.py", 0), Entry("proj/a/b.py", 0)]
        assert sorted(path.relative_to(target).as_posix() for path in target.rglob("*")) == [
            "proj", "proj/a", "proj/a/b.py", "proj/train.py",
        ]  # fmt: skip
        assert "no files" in refusal(pack(tmp_path / "b.zip", beside), tmp_path / "other").message

    def test_a_program_stays_a_program_and_gets_no_other_right(self, tmp_path: Path, target: Path) -> None:
        def runnable(info: zipfile.ZipInfo) -> None:
            info.external_attr = (stat.S_IFREG | 0o777) << 16

        unpack(pack(tmp_path / "a.zip", {"run.sh": b"x"}, runnable), target)
        assert stat.S_IMODE((target / "run.sh").stat().st_mode) == 0o755

    def test_an_empty_folder_may_be_there_and_a_full_one_is_left_alone(self, tmp_path: Path, target: Path) -> None:
        archive = pack(tmp_path / "a.zip", {"a": b"a"})
        target.mkdir()
        unpack(archive, target)
        with pytest.raises(FileExistsError):
            unpack(archive, target)
        assert os.listdir(target) == ["a"]

    def test_the_command_line_says_the_same(
        self, tmp_path: Path, target: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main([str(pack(tmp_path / "a.zip", {"a": b"a"})), str(target), "--json"]) == 0
        assert json.loads(capsys.readouterr().out) == {"entries": [{"name": "a", "size": 1}]}
        bad = pack(tmp_path / "b.zip", {"../a": b"a"})
        assert main([str(bad), str(tmp_path / "other"), "--json"]) == REFUSED
        told = json.loads(capsys.readouterr().out)
        assert (told["kind"], told["entry"]) == ("content", "../a")
        assert main([str(bad), str(tmp_path / "other"), "--ratio", "100"]) == REFUSED
        assert "leads out of its folder" in capsys.readouterr().err


class TestNames:
    @pytest.mark.parametrize(
        ("name", "why"),
        [
            ("../a", "leads out"), ("a/../../b", "leads out"), ("a/..", "leads out"), ("/etc/passwd", "outside"), ("C:/a", "outside"),
            ("c:a", "outside"), ("a\\b", "back-slash"), ("..\\a", "back-slash"), ("a\nb", "control"), ("a\x1b[31mb", "control"),
            ("a\u202etxt.exe", "control"), ("a//b", "empty part"), ("./a", "empty part"), ("a/./b", "empty part"),
            ("a" * 256, "too long"), ("ä" * 128 + "/b", "too long"), ("b/" * 33 + "a", "folders deep"), ("a.", "ends with"),
            ("a /b", "ends with"), ("nul", "device"), ("a/CON.txt", "device"), ("com1.tar.gz", "device"), ("LPT\u00b9", "device"),
            ("a/b/" + "c" * 200 + "/" + "d" * 200 + "/" + "e" * 200 + "/" + "f" * 200 + "/" + "g" * 250, "too long"),
        ],
    )  # fmt: skip
    def test_a_name_that_is_not_one_everywhere(self, tmp_path: Path, target: Path, name: str, why: str) -> None:
        refused = refusal(pack(tmp_path / "a.zip", {"fine.txt": b"x", name: b"x"}), target)
        assert why in refused.message and (refused.kind, refused.entry) == ("content", name)

    def test_a_nul_cuts_no_name_short(self, tmp_path: Path, target: Path) -> None:
        archive = pack(tmp_path / "a.zip", {"train.pyXjpg": b"x"})
        archive.write_bytes(archive.read_bytes().replace(b"train.pyXjpg", b"train.py\0jpg"))
        assert "control" in refusal(archive, target).message

    @pytest.mark.parametrize(
        "names",
        [("a", "A"), ("straße", "STRASSE"), ("\u00e9", "e\u0301"), ("ﬁle", "file"), ("a/b", "A/c"), ("a", "a/b"), ("a/b", "a"),
         ("K", "\u212a")],
    )  # fmt: skip
    def test_names_that_are_one_file_elsewhere(self, tmp_path: Path, target: Path, names: tuple[str, str]) -> None:
        assert "the same file" in refusal(pack(tmp_path / "a.zip", dict.fromkeys(names, b"x")), target).message

    def test_the_same_name_twice(self, tmp_path: Path, target: Path) -> None:
        archive = tmp_path / "a.zip"
        with zipfile.ZipFile(archive, "w") as file, pytest.warns(UserWarning):
            file.writestr("a", b"1")
            file.writestr("a", b"2")
        assert "the same file" in refusal(archive, target).message


class TestKinds:
    @pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK])
    def test_links_and_devices(self, tmp_path: Path, target: Path, kind: int) -> None:
        def become(info: zipfile.ZipInfo) -> None:
            info.external_attr, info.create_system = (kind | 0o777) << 16, 0  # whoever claims to have packed it

        refused = refusal(pack(tmp_path / "a.zip", {"a": b"/etc/passwd"}, become), target)
        assert "link or a device" in refused.message and refused.entry == "a"

    @pytest.mark.parametrize("right", [stat.S_ISUID, stat.S_ISGID, stat.S_ISVTX])
    def test_special_rights(self, tmp_path: Path, target: Path, right: int) -> None:
        def become(info: zipfile.ZipInfo) -> None:
            info.external_attr = (stat.S_IFREG | right | 0o755) << 16

        assert "special right" in refusal(pack(tmp_path / "a.zip", {"a": b"x"}, become), target).message

    @pytest.mark.parametrize(
        ("start", "what"),
        [(b"\x1f\x8b\x08\x00", "gzip"), (b"7z\xbc\xaf\x27\x1c\x00\x04", "7z"), (b"Rar!\x1a\x07\x01\x00", "rar"), (b"import torch", "not a zip"),
         (b"", "not a zip"), (b"BZh91AY", "bzip2"), (b"MZ" + bytes(60), "not a zip")],
    )  # fmt: skip
    def test_what_is_no_zip(self, tmp_path: Path, target: Path, start: bytes, what: str) -> None:
        (tmp_path / "a").write_bytes(start)
        refused = refusal(tmp_path / "a", target)
        assert refused.kind == "type" and what in refused.message and "zip archive" in refused.message

    def test_a_tar_and_a_zip_behind_a_program(self, tmp_path: Path, target: Path) -> None:
        with tarfile.open(tmp_path / "a.tar", "w") as archive:
            archive.addfile(tarfile.TarInfo("a"), io.BytesIO())
        assert "tar" in refusal(tmp_path / "a.tar", target).message
        zipped = pack(tmp_path / "a.zip", {"a": b"x"}).read_bytes()
        (tmp_path / "b.zip").write_bytes(b"#!/bin/sh\n" + zipped)
        assert refusal(tmp_path / "b.zip", target).kind == "type"

    @pytest.mark.parametrize("flag", [0x1, 0x41])
    def test_an_encrypted_entry(self, tmp_path: Path, target: Path, flag: int) -> None:
        archive = pack(tmp_path / "a.zip", {"a": b"x"})
        content = bytearray(archive.read_bytes())
        for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
            content[content.index(mark) + offset] |= flag
        archive.write_bytes(content)
        refused = refusal(archive, target)
        assert refused.kind == "type" and "encrypted" in refused.message

    def test_a_method_that_few_can_read(self, tmp_path: Path, target: Path) -> None:
        with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_LZMA) as archive:
            archive.writestr("a", b"x")
        assert refusal(tmp_path / "a.zip", target).kind == "type"

    def test_an_archive_without_files(self, tmp_path: Path, target: Path) -> None:
        assert "no files" in refusal(pack(tmp_path / "a.zip", {}), target).message
        assert "no files" in refusal(pack(tmp_path / "b.zip", {"folder/": b""}), target).message


class TestSizes:
    def test_a_bomb_by_its_ratio(self, tmp_path: Path, target: Path) -> None:
        refused = refusal(pack(tmp_path / "a.zip", {"zeros": bytes(32 * MIB)}), target)
        assert refused.kind == "size" and "200 times" in refused.message

    def test_small_files_of_zeros_are_no_bomb(self, tmp_path: Path, target: Path) -> None:
        assert unpack(pack(tmp_path / "a.zip", {"zeros": bytes(MIB)}), target) == [Entry("zeros", MIB)]

    def test_more_bytes_than_the_operator_allows(self, tmp_path: Path, target: Path) -> None:
        archive = pack(tmp_path / "a.zip", {"a": os.urandom(3_000), "b": os.urandom(3_000)})
        refused = refusal(archive, target, Bounds(total_bytes=5_000))
        assert refused.kind == "size" and "5,000 bytes" in refused.message
        with pytest.raises(BadArchive):
            contents(archive, Bounds(total_bytes=5_000))

    def test_more_entries_than_allowed_are_not_even_read(self, tmp_path: Path, target: Path) -> None:
        archive = pack(tmp_path / "a.zip", {f"file-{number}": b"" for number in range(50)})
        refused = refusal(archive, target, Bounds(entries=49))
        assert refused.kind == "size" and "50 entries" in refused.message
        claims = bytearray(archive.read_bytes())
        struct.pack_into("<HH", claims, len(claims) - 14, 1, 1)  # an end that claims one entry
        archive.write_bytes(claims)
        assert refusal(archive, target, Bounds(entries=49)).kind in ("size", "content")

    def test_a_million_entries_are_refused_without_reading_them(self, tmp_path: Path, target: Path) -> None:
        one = pack(tmp_path / "one.zip", {"a": b""}).read_bytes()
        start, end = one.index(b"PK\x01\x02"), one.index(b"PK\x05\x06")
        entries = one[start:end] * 1_000_000
        last = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, len(entries), start, 0)
        archive = tmp_path / "a.zip"
        archive.write_bytes(one[:start] + entries + last)
        tracemalloc.start()
        refused = refusal(archive, target)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert refused.kind in ("size", "content") and most < 10 * MIB, refused.message

    def test_a_header_that_claims_less_than_comes_out(self, tmp_path: Path, target: Path) -> None:
        archive = pack(tmp_path / "a.zip", {"a": b"x" * 100_000})
        content = bytearray(archive.read_bytes())
        for mark, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
            struct.pack_into("<I", content, content.index(mark) + offset, 10)
        archive.write_bytes(content)
        assert refusal(archive, target).kind == "content"

    def test_entries_that_share_their_bytes(self, tmp_path: Path, target: Path) -> None:
        archive = pack(tmp_path / "a.zip", {"aaaa": os.urandom(2_000), "bbbb": os.urandom(2_000)})
        content = bytearray(archive.read_bytes())
        second = content.index(b"PK\x01\x02", content.index(b"PK\x01\x02") + 4)
        struct.pack_into("<I", content, second + 42, 0)  # the second entry begins where the first one does
        archive.write_bytes(content)
        assert "overlaps" in refusal(archive, target).message

    def test_damage_in_the_middle_leaves_nothing(self, tmp_path: Path, target: Path) -> None:
        archive = pack(tmp_path / "a.zip", {"first": b"fine", "second": os.urandom(50_000)})
        content = bytearray(archive.read_bytes())
        content[30_000] ^= 0xFF
        archive.write_bytes(content)
        assert "damaged" in refusal(archive, target).message
        archive.write_bytes(content[:-30])
        assert "cut off" in refusal(archive, target).message


PARTS = st.text(st.sampled_from("abAB.. /\\\0\n:éß\u202e~-_"), min_size=1, max_size=12)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(PARTS, st.binary(max_size=64), min_size=1, max_size=6), st.integers(0, 0xFFFF))
def test_whatever_is_packed_comes_out_as_it_was_or_is_refused_whole(
    tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes], mode: int
) -> None:
    folder = tmp_path_factory.mktemp("any")

    def become(info: zipfile.ZipInfo) -> None:
        info.external_attr = mode << 16

    archive = pack(
        folder / "a.zip", {name: b"" if name.endswith("/") else content for name, content in files.items()}, become
    )
    try:
        entries = unpack(archive, folder / "out")
    except BadArchive:
        assert sorted(os.listdir(folder)) == ["a.zip"]
        return
    assert sorted(os.listdir(folder)) == ["a.zip", "out"]
    for entry in entries:
        path = folder / "out" / entry.name
        assert path.is_file() and not path.is_symlink() and path.resolve().is_relative_to(folder / "out")
        assert path.read_bytes() == files[entry.name]
        assert not path.stat().st_mode & 0o7022


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_damaged_archives_end_in_a_sentence(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    content = bytearray(pack(folder / "a.zip", {"a.txt": b"hello " * 20, "b/c.bin": bytes(range(256))}).read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (folder / "a.zip").write_bytes(content[: data.draw(st.integers(1, len(content)))])
    try:
        unpack(folder / "a.zip", folder / "out")
    except BadArchive as refused:
        assert refused.message.endswith(".") and not (folder / "out").exists()
