"""The spool: what was appended is read once and in order, whatever is killed, torn, full or far behind."""

from __future__ import annotations

import errno
import hashlib
import json
import multiprocessing
import os
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.files import write_atomically
from agent.spool import Final, Spool, SpoolReader
from agent.spool.writer import _uncovered

COMPLETED = Final("completed")


def texts(reader: SpoolReader, after: int = 0) -> list[str]:
    _, items = reader.read("log", after, 1 << 30, 10**6)
    return [item["text"] for item in items]


def fill(spool: Spool, count: int, start: int = 1, width: int = 10) -> None:
    for number in range(start, start + count):
        spool.append("log", {"text": f"{number:0{width}}\n"})


def segments(folder: Path, stream: str = "log") -> list[Path]:
    return sorted(folder.glob(f"{stream}-*.spool"))


def test_streams_are_numbered_from_one_each(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    assert [spool.append("log", {"text": "a"}), spool.append("metrics", {"steps": [1], "values": {}})] == [1, 1]
    assert spool.append("log", {"text": "b"}) == 2
    assert spool.last == {"log": 2, "metrics": 1, "event": 0, "samples": 0}


@settings(max_examples=50, deadline=None)
@given(
    items=st.lists(st.tuples(st.sampled_from(["log", "metrics", "event"]), st.text(max_size=300)), max_size=60),
    limit=st.integers(1, 2000),
)
def test_everything_appended_is_read_in_order_in_pieces_of_any_size(
    tmp_path_factory: pytest.TempPathFactory, items: list[tuple[str, str]], limit: int
) -> None:
    folder = tmp_path_factory.mktemp("spool")
    spool, reader = Spool(folder, segment_bytes=500), SpoolReader(folder)
    for stream, text in items:
        spool.append(stream, {"text": text})
    for stream in ("log", "metrics", "event"):
        wanted = [text.encode("utf-8", "replace").decode() for one, text in items if one == stream]
        found: list[str] = []
        while True:
            first, read = reader.read(stream, len(found), limit)
            assert first == len(found) + 1
            if not read:
                break
            found += [item["text"] for item in read]
        assert found == wanted
    assert reader.last == spool.last


def test_at_least_one_record_is_read_however_small_the_limit(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.append("log", {"text": "x" * 1000})
    assert texts(spool) == ["x" * 1000]
    assert SpoolReader(tmp_path).read("log", 0, 1) == (1, [{"text": "x" * 1000}])


def test_max_records_is_kept(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    fill(spool, 10)
    first, items = spool.read("log", 3, 1 << 20, 4)
    assert (first, len(items)) == (4, 4)


def test_reading_again_from_an_earlier_place(tmp_path: Path) -> None:
    spool, reader = Spool(tmp_path, segment_bytes=100), SpoolReader(tmp_path)
    fill(spool, 50)
    assert len(texts(reader)) == 50
    assert texts(reader, 17)[0] == "0000000018\n"
    assert texts(reader, 49) == ["0000000050\n"]
    assert texts(reader, 50) == []


def test_a_reader_in_another_process_sees_each_record_once_while_it_is_written(tmp_path: Path) -> None:
    Spool(tmp_path).close()
    writer = multiprocessing.get_context("fork").Process(target=_write_many, args=(tmp_path, 3000))
    writer.start()
    reader, seen = SpoolReader(tmp_path), []
    while reader.final is None or len(seen) < reader.final["last"]["log"]:
        seen += texts(reader, len(seen))
    writer.join()
    assert seen == [f"{number:0100}\n" for number in range(1, 3001)]


def _write_many(folder: Path, count: int) -> None:
    spool = Spool(folder, segment_bytes=20_000)
    fill(spool, count, width=100)
    spool.finish(COMPLETED)


def test_a_torn_tail_is_cut_off_and_the_numbers_go_on(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    fill(spool, 5)
    spool.close()
    last = segments(tmp_path)[-1]
    with last.open("r+b") as file:
        file.truncate(last.stat().st_size - 3)
    again = Spool(tmp_path)
    assert again.last["log"] == 4
    fill(again, 2, start=5)
    assert texts(SpoolReader(tmp_path)) == [f"{number:010}\n" for number in range(1, 7)]


def test_a_number_that_the_server_has_committed_is_not_given_again(tmp_path: Path) -> None:
    """The power cut took a record that had been sent: the next one would be taken for it, and thrown away."""
    spool = Spool(tmp_path)
    fill(spool, 5)
    spool.acknowledge("log", 5)
    spool.close()
    last = segments(tmp_path)[-1]
    with last.open("r+b") as file:
        file.truncate(last.stat().st_size - 3)
    again = Spool(tmp_path)
    assert again.append("log", {"text": "after the power cut\n"}) == 6
    again.finish(COMPLETED)
    reader = SpoolReader(tmp_path)
    assert reader.read("log", 5, 10_000) == (6, [{"text": "after the power cut\n"}])
    assert (reader.final or {})["log_sha256"] == ""


@pytest.mark.parametrize("cut", range(1, 60, 7))
def test_wherever_the_power_is_cut_whole_records_stay(tmp_path: Path, cut: int) -> None:
    spool = Spool(tmp_path)
    fill(spool, 3)
    spool.close()
    last = segments(tmp_path)[-1]
    with last.open("r+b") as file:
        file.truncate(last.stat().st_size - cut)
    again = Spool(tmp_path)
    again.append("log", {"text": "after\n"})
    read = texts(SpoolReader(tmp_path))
    assert read[-1] == "after\n"
    assert read[:-1] == [f"{number:010}\n" for number in range(1, len(read))]


def test_a_reader_never_sees_half_a_record(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    fill(spool, 2)
    spool.close()
    last = segments(tmp_path)[-1]
    whole = last.read_bytes()
    last.write_bytes(whole[:-4])
    reader = SpoolReader(tmp_path)
    assert texts(reader) == ["0000000001\n"]
    last.write_bytes(whole)
    assert texts(reader, 1) == ["0000000002\n"]


def test_a_damaged_record_is_skipped_with_its_segment_and_leaves_no_hole_in_the_numbers(tmp_path: Path) -> None:
    spool = Spool(tmp_path, segment_bytes=120)
    fill(spool, 9)
    spool.close()
    middle = segments(tmp_path)[1]
    data = bytearray(middle.read_bytes())
    data[len(data) // 2] ^= 0xFF
    middle.write_bytes(bytes(data))
    read = texts(SpoolReader(tmp_path))
    assert len(read) == 9
    assert read[0] == "0000000001\n"
    assert read[-1] == "0000000009\n"
    assert "" in read


def test_the_end_tells_what_the_whole_log_adds_up_to(tmp_path: Path) -> None:
    spool = Spool(tmp_path, segment_bytes=200)
    for text in ("häh\n", "\ud800 broken\n", "plain\n"):
        spool.append("log", {"text": text})
    told = spool.finish(Final("failed", "data", "Line 3 is broken.", "Mend it."))
    stored = "".join(texts(SpoolReader(tmp_path))).encode()
    assert told["log_bytes"] == len(stored)
    assert told["log_sha256"] == hashlib.sha256(stored).hexdigest()
    assert SpoolReader(tmp_path).final == told
    assert (told["outcome"], told["cause"], told["last"]["log"]) == ("failed", "data", 3)


def test_the_sum_survives_a_restart_of_the_writer(tmp_path: Path) -> None:
    first = Spool(tmp_path, segment_bytes=100)
    fill(first, 20)
    first.close()
    second = Spool(tmp_path)
    fill(second, 5, start=21)
    told = second.finish(COMPLETED)
    assert told["log_sha256"] == hashlib.sha256("".join(texts(SpoolReader(tmp_path))).encode()).hexdigest()


def test_the_first_end_stands_and_nothing_follows_it(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    spool.finish(Final("stopped"))
    assert spool.finish(COMPLETED)["outcome"] == "stopped"
    assert Spool(tmp_path).finish(COMPLETED)["outcome"] == "stopped"
    with pytest.raises(ValueError, match="has ended"):
        spool.append("log", {"text": "late"})


def test_a_record_that_no_frame_could_carry_is_refused(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    with pytest.raises(ValueError, match="larger than"):
        spool.append("log", {"text": "x" * 40_000})
    assert spool.append("log", {"text": "fits"}) == 1


def test_acknowledgements_are_noted_for_the_writer_and_never_go_back(tmp_path: Path) -> None:
    spool, reader = Spool(tmp_path), SpoolReader(tmp_path)
    fill(spool, 5)
    reader.acknowledge("log", 4)
    reader.acknowledge("log", 2)
    assert reader.acknowledged["log"] == 4
    assert SpoolReader(tmp_path).acknowledged["log"] == 4


def test_over_budget_acknowledged_log_goes_without_a_trace(tmp_path: Path) -> None:
    spool = Spool(tmp_path, budget_bytes=3_000, segment_bytes=1_000)
    for start in range(1, 301, 10):
        fill(spool, 10, start=start)
        spool.acknowledge("log", start + 9)
    reader = SpoolReader(tmp_path)
    assert sum(path.stat().st_size for path in segments(tmp_path)) <= 4_200
    assert reader.read("event", 0, 1 << 20)[1] == []
    assert texts(reader, 299) == ["0000000300\n"]
    assert len(spool.finish(COMPLETED)["log_sha256"]) == 64


def test_over_budget_unsent_log_leaves_a_gap_that_says_how_much_and_the_rest_is_whole(tmp_path: Path) -> None:
    spool = Spool(tmp_path, budget_bytes=3_000, segment_bytes=1_000)
    for step in range(1, 21):
        spool.append("metrics", {"steps": [step], "values": {"loss": [1.0]}})
    fill(spool, 300)
    reader = SpoolReader(tmp_path)
    gaps = [item for item in reader.read("event", 0, 1 << 20)[1] if item["kind"] == "gap"]
    lost = {number for gap in gaps for number in range(gap["first"], gap["last"] + 1)}
    read = texts(reader)
    assert len(read) == 300
    assert {number for number, text in enumerate(read, 1) if text == ""} == lost
    assert all(text == f"{number:010}\n" for number, text in enumerate(read, 1) if number not in lost)
    assert lost and all(gap["bytes"] > 0 for gap in gaps)
    assert len(reader.read("metrics", 0, 1 << 20)[1]) == 20
    assert spool.finish(COMPLETED)["log_sha256"] == ""


def test_a_crash_between_giving_up_log_and_saying_so_leaves_a_gap_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spool = Spool(tmp_path, budget_bytes=3_000, segment_bytes=1_000)
    fill(spool, 150)
    declared = len([item for item in spool.read("event", 0, 1 << 20)[1] if item["kind"] == "gap"])
    with monkeypatch.context() as crash:
        crash.setattr(Spool, "_note_gap", lambda *_: None)
        fill(spool, 150, start=151)
    spool.close()
    assert declared
    for _ in range(2):  # once is enough
        spool = Spool(tmp_path)
        gaps = [item for item in spool.read("event", 0, 1 << 20)[1] if item["kind"] == "gap"]
        lost = [number for gap in gaps for number in range(gap["first"], gap["last"] + 1)]
        read = texts(spool)
        assert [number for number, text in enumerate(read, 1) if text == ""] == lost
        spool.close()
    assert len(gaps) == declared + 1 and read[-1] == "0000000300\n"


@given(
    st.tuples(st.integers(1, 30), st.integers(1, 30)).map(sorted),
    st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30)).map(sorted), max_size=5),
)
def test_what_no_gap_covers_is_exactly_that(span: list[int], covers: list[list[int]]) -> None:
    covered = {number for first, last in covers for number in range(first, last + 1)}
    parts = list(_uncovered((span[0], span[1]), [(first, last) for first, last in covers]))
    found = [number for first, last in parts for number in range(first, last + 1)]
    assert found == [number for number in range(span[0], span[1] + 1) if number not in covered]


class FullDisk:
    """Stands in for os.write while it is `full`: what is larger than `room` finds none. Where it is `late` it takes
    everything, and tells at the fsync."""

    def __init__(self) -> None:
        self.full, self.room, self.late = False, 0, False
        self._write, self._sync = os.write, os.fsync

    def __call__(self, descriptor: int, data: bytes) -> int:
        if self.full and not self.late and len(data) > self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        return self._write(descriptor, data)

    def sync(self, descriptor: int) -> None:
        if self.full and self.late:
            raise OSError(errno.ENOSPC, "No space left on device")
        self._sync(descriptor)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> FullDisk:
    """The disk below every spool."""
    full = FullDisk()
    monkeypatch.setattr("agent.spool.segments.os.write", full)
    monkeypatch.setattr("agent.spool.segments.os.fsync", full.sync)
    return full


def test_on_a_full_disk_log_becomes_a_gap_and_everything_else_waits_for_room(tmp_path: Path, disk: FullDisk) -> None:
    spool = Spool(tmp_path)
    spool.append("log", {"text": "before\n"})
    disk.full = True
    fill(spool, 3, start=2)
    spool.append("event", {"kind": "checkpoint", "step": 7})
    spool.append("metrics", {"steps": [8], "values": {"loss": [0.5]}})
    disk.full = False
    spool.sync_when_due()
    spool.append("log", {"text": "after\n"})
    spool.finish(COMPLETED)
    reader = SpoolReader(tmp_path)
    assert texts(reader) == ["before\n", "", "", "", "after\n"]
    events = reader.read("event", 0, 1 << 20)[1]
    assert events[0] == {"kind": "checkpoint", "step": 7}
    assert {**events[1], "bytes": 0} == {"kind": "gap", "stream": "log", "first": 2, "last": 4, "bytes": 0}
    assert reader.read("metrics", 0, 1 << 20)[1] == [{"steps": [8], "values": {"loss": [0.5]}}]


def test_a_disk_that_tells_at_the_fsync_that_it_is_full_ends_no_training(tmp_path: Path, disk: FullDisk) -> None:
    spool = Spool(tmp_path, segment_bytes=100, sync_seconds=0)
    spool.append("log", {"text": "before\n"})
    disk.full = disk.late = True
    for step in range(20):
        spool.append("metrics", {"steps": [step], "values": {"loss": [0.5]}})
        spool.append("log", {"text": f"line {step}\n"})
        spool.sync_when_due()
    with pytest.raises(OSError, match="no room"):
        spool.finish(COMPLETED)
    disk.full = False
    assert spool.finish(COMPLETED)["last"]["metrics"] == 20
    reader = SpoolReader(tmp_path)
    assert [item["steps"] for item in reader.read("metrics", 0, 1 << 20)[1]] == [[step] for step in range(20)]
    shown, gaps = texts(reader), [item for item in reader.read("event", 0, 1 << 20)[1] if item["kind"] == "gap"]
    covered = {number for gap in gaps for number in range(gap["first"], gap["last"] + 1)}
    assert {number for number, text in enumerate(shown, 1) if not text} == covered


def test_what_the_room_for_an_event_cost_is_told_behind_it(tmp_path: Path, disk: FullDisk) -> None:
    """A reader that met the gap first would take the event before it for lost."""
    disk.room = 300
    spool = Spool(tmp_path, segment_bytes=100)
    fill(spool, 12)
    disk.full = True
    checkpoint = {"kind": "checkpoint", "step": 7, "note": "n" * 500}
    spool.append("event", checkpoint)
    reader = SpoolReader(tmp_path)
    assert reader.read("event", 0, 1 << 20)[1] == []
    disk.full = False
    spool.sync_when_due()
    events = reader.read("event", 0, 1 << 20)[1]
    assert events[0] == checkpoint
    assert [event["kind"] for event in events[1:]] == ["gap"] * (len(events) - 1) and len(events) > 1


def test_the_reserve_is_not_set_aside_again_once_the_end_is_told(tmp_path: Path) -> None:
    Spool(tmp_path).finish(COMPLETED)
    Spool(tmp_path).close()
    assert not (tmp_path / "reserve").exists()


def test_an_end_without_room_is_told_once_there_is_some_and_nothing_before_it_is_missing(
    tmp_path: Path, disk: FullDisk
) -> None:
    spool = Spool(tmp_path)
    disk.full = True
    fill(spool, 2)
    spool.append("metrics", {"steps": [8], "values": {"loss": [0.5]}})
    for _ in range(3):
        with pytest.raises(OSError, match="no room for 2 records"):
            spool.finish(COMPLETED)
        assert SpoolReader(tmp_path).final is None
    disk.full = False
    told = spool.finish(COMPLETED)
    reader = SpoolReader(tmp_path)
    assert told["last"] == {"log": 2, "metrics": 1, "event": 1, "samples": 0}
    assert reader.read("metrics", 0, 1 << 20)[1] == [{"steps": [8], "values": {"loss": [0.5]}}]
    assert reader.read("event", 0, 1 << 20)[1][0]["kind"] == "gap"


def test_log_lost_at_the_very_end_still_counts(tmp_path: Path, disk: FullDisk) -> None:
    spool = Spool(tmp_path)
    disk.full = True
    fill(spool, 2)
    disk.full = False
    told = spool.finish(COMPLETED)
    reader = SpoolReader(tmp_path)
    assert told["last"] == {"log": 2, "metrics": 0, "event": 1, "samples": 0}
    assert texts(reader) == ["", ""]
    assert reader.read("event", 0, 1 << 20)[1][0]["last"] == 2


def test_several_threads_may_append_at_once(tmp_path: Path) -> None:
    spool = Spool(tmp_path, segment_bytes=2_000)
    threads = [threading.Thread(target=fill, args=(spool, 100, 1000 * n)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    read = texts(SpoolReader(tmp_path))
    assert sorted(read) == sorted(f"{1000 * n + i:010}\n" for n in range(4) for i in range(100))


def test_a_file_is_replaced_whole_and_readable_by_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "secret.json"
    write_atomically(path, json.dumps({"a": 1}))
    write_atomically(path, json.dumps({"a": 2}))
    assert json.loads(path.read_text()) == {"a": 2}
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]
