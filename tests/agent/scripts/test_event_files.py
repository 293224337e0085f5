"""Scalars out of TensorBoard's event files: while they grow, when they are torn or broken, and never without bounds."""

from __future__ import annotations

import os
import shutil
import struct
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.scripts import event_files, found_files
from agent.scripts.curves import Point
from agent.scripts.event_files import EventFiles, masked_crc, scalars
from agent.scripts.found_files import Folder
from tests.agent.scripts.event_writer import event, field, file_of, float_field, record, scalar, tensor, valued, varint

# Written by tensorboardX 2.6.5: SummaryWriter.add_scalar("Loss/train", 2 / (i + 1), i) for 40 steps, "Accuracy" at each
# tenth, a histogram and a text.
REAL = Path(__file__).parent / "events" / "events.out.tfevents.tensorboardx"
NAME = "events.out.tfevents.1795285704.machine"


def at(step: int, **values: float | None) -> Point:
    return Point("tensorboard", step, dict(values), None)


@pytest.fixture
def files(tmp_path: Path) -> EventFiles:
    return EventFiles(Folder(tmp_path), since=0)


def test_a_file_that_a_real_writer_wrote(tmp_path: Path, files: EventFiles) -> None:
    shutil.copy(REAL, tmp_path / NAME)
    points = files.poll()
    losses = [(point.step, point.values["loss/train"]) for point in points if "loss/train" in point.values]
    assert losses == [(i, pytest.approx(2 / (i + 1))) for i in range(40)]
    assert [point for point in points if "accuracy" in point.values] == [
        at(i, accuracy=i / 40) for i in (0, 10, 20, 30)
    ]
    assert {name for point in points for name in point.values} == {"loss/train", "accuracy"}
    assert files.notes == []


def test_the_checksum_is_that_of_tfrecord() -> None:
    # CRC-32C("123456789") is e3069283 (RFC 3720, B.4, names the polynomial); masked: rotated right by 15, plus a282ead8.
    crc = 0xE3069283
    assert masked_crc(b"123456789") == ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32


@pytest.mark.parametrize("cut", [0, 5, 11, 12, 30, 60, 75])
def test_a_file_is_read_on_and_its_torn_end_waits(tmp_path: Path, files: EventFiles, cut: int) -> None:
    whole = file_of(event(1, scalar("loss", 0.5)), event(2, scalar("loss", 0.25)))
    with (tmp_path / NAME).open("wb", buffering=0) as file:
        file.write(whole[:cut])
        points = files.poll()
        file.write(whole[cut:])
    assert points + files.poll() + files.poll() == [at(1, loss=0.5), at(2, loss=0.25)]
    assert files.notes == []


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (tensor(1, field(5, struct.pack("<f", 0.5))), 0.5),
        (tensor(1, float_field(5, 0.5)), 0.5),
        (tensor(1, field(4, struct.pack("<f", 0.5))), 0.5),
        (tensor(2, field(4, struct.pack("<d", 0.5))), 0.5),
        (tensor(2, field(6, struct.pack("<d", 0.5))), 0.5),
        (tensor(3, field(7, varint(7))), 7.0),
        (tensor(9, field(10, varint(-7))), -7.0),
        (tensor(9, field(4, struct.pack("<q", -7))), -7.0),
        (float_field(2, float("nan")), None),
        (tensor(1, float_field(5, float("inf"))), None),
    ],
)
def test_scalars_come_as_floats_and_as_tensors(value: bytes, number: float | None) -> None:
    assert scalars(event(3, valued("acc", value))) == (3, [("acc", number)])


@pytest.mark.parametrize(
    "value",
    [
        tensor(1, field(4, struct.pack("<ff", 0.5, 1))),  # two numbers
        tensor(7, field(8, b"a text")),
        tensor(1),
        field(4, b"a picture"),
        field(9, b"metadata alone"),
    ],
)
def test_what_is_no_scalar_is_left_out(value: bytes) -> None:
    assert scalars(event(3, valued("x", value), scalar("loss", 0.5))) == (3, [("loss", 0.5)])


def test_a_broken_file_is_given_up_with_one_note_and_the_others_go_on(tmp_path: Path, files: EventFiles) -> None:
    broken = bytearray(file_of(event(1, scalar("loss", 0.5)), event(2, scalar("loss", 0.25))))
    broken[-len(record(event(2, scalar("loss", 0.25))))] ^= 1
    (tmp_path / NAME).write_bytes(broken)
    (tmp_path / "later").mkdir()
    (tmp_path / "later" / NAME).write_bytes(file_of(event(9, scalar("acc", 0.5))))
    assert files.poll() + files.poll() == [at(1, loss=0.5), at(9, acc=0.5)]
    assert len(files.notes) == 1
    assert files.notes[0].startswith(f"{NAME} is not read any further: the record at byte ")


def test_records_that_are_too_long_or_no_events_are_skipped(tmp_path: Path, files: EventFiles) -> None:
    picture = b"x" * (event_files.MAX_RECORD + 1)
    content = file_of(picture, b"\xff\xff\xff", event(1, scalar("loss", 0.5)), event(2**40, scalar("loss", 0.5)))
    (tmp_path / NAME).write_bytes(content)
    assert files.poll() == [at(1, loss=0.5)]


def test_a_poll_reads_a_bounded_amount_and_the_next_one_goes_on(
    tmp_path: Path, files: EventFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_files, "MAX_READ", 500)
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / NAME).write_bytes(file_of(*(event(i, scalar(folder, i)) for i in range(20))))
    polls = [files.poll() for _ in range(10)]
    assert all(len(points) < 15 for points in polls)
    found = [point for points in polls for point in points]
    assert sorted(found, key=str) == sorted([at(i, **{name: float(i)}) for i in range(20) for name in "ab"], key=str)


def test_the_walk_skips_old_files_links_deep_folders_and_installed_packages(tmp_path: Path) -> None:
    content = file_of(event(1, scalar("loss", 0.5)))
    deepest = "/".join("abcdef")
    for folder in ("", "runs", deepest, f"{deepest}/g", ".git", "venv/lib", "node_modules"):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / NAME).write_bytes(content)
    os.utime(tmp_path / "runs" / NAME, (1000, 1000))
    (tmp_path / "elsewhere").symlink_to(tmp_path / "runs")
    (tmp_path / f"{NAME}.link").symlink_to(tmp_path / NAME)
    os.mkfifo(tmp_path / f"{NAME}.pipe")
    files = EventFiles(Folder(tmp_path), since=2000)
    assert len(files.poll()) == 2
    os.utime(tmp_path / "runs" / NAME, (3000, 3000))
    assert len(files.poll()) == 1


def test_a_file_that_became_a_link_is_not_read(tmp_path: Path, files: EventFiles) -> None:
    (tmp_path / NAME).write_bytes(file_of(event(1, scalar("loss", 0.5))))
    files.poll()
    (tmp_path / NAME).unlink()
    (tmp_path / "target").write_bytes(file_of(event(1, scalar("loss", 0.5))) * 2)
    (tmp_path / NAME).symlink_to("target")
    assert files.poll() == [] and files.notes == []


def test_folders_with_the_same_tag_are_told_apart(tmp_path: Path, files: EventFiles) -> None:
    for folder, loss in (("train", 0.5), ("validation", 0.75)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / NAME).write_bytes(file_of(event(1, scalar("epoch_loss", loss))))
    assert [point.values for point in files.poll()] == [{"epoch_loss": 0.5}, {"validation/epoch_loss": 0.75}]


@pytest.mark.parametrize(
    "folders",
    [("lightning_logs/version_0", "lightning_logs/version_1"), ("runs/Nov28_12-00-00_a", "runs/Nov28_13-00-00_a")],
)
def test_the_folder_of_another_attempt_gives_the_names_of_the_first_one(
    tmp_path: Path, files: EventFiles, folders: tuple[str, str]
) -> None:
    def write(folder: str, step: int) -> None:
        for inside in (folder, f"{folder}/val"):
            (tmp_path / inside).mkdir(parents=True, exist_ok=True)
            (tmp_path / inside / f"{NAME}.{step}").write_bytes(file_of(event(step, scalar("train_loss", 0.5))))

    write(folders[0], 1)
    assert [set(point.values) for point in files.poll()] == [{"train_loss"}, {"val/train_loss"}]
    again = EventFiles(Folder(tmp_path), since=0, before=event_files.sizes(Folder(tmp_path)))
    assert again.poll() == []
    write(folders[1], 2)
    assert again.poll() == [at(2, train_loss=0.5), at(2, **{"val/train_loss": 0.5})]


def test_what_an_attempt_adds_to_a_file_that_was_there_is_read(tmp_path: Path) -> None:
    first, added = file_of(event(1, scalar("loss", 0.5))), record(event(2, scalar("loss", 0.25)))
    (tmp_path / NAME).write_bytes(first)
    files = EventFiles(Folder(tmp_path), since=0, before=event_files.sizes(Folder(tmp_path)))
    (tmp_path / NAME).write_bytes(first + added)
    assert files.poll() == [at(2, loss=0.25)]


def test_tags_and_files_are_bounded(tmp_path: Path, files: EventFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(event_files, "MAX_FILES", 3)
    for n in range(5):
        (tmp_path / f"{NAME}.{n}").write_bytes(file_of(*(event(i, scalar(f"tag {n} {i}", 1)) for i in range(250))))
    names = {name for _ in range(2) for point in files.poll() for name in point.values}
    assert len(names) == event_files.MAX_TAGS
    assert files.notes == ["More than 3 TensorBoard event files lie in the folder; the others are left out."]


def test_one_file_too_many_does_not_end_the_reading_of_those_that_are_known(
    tmp_path: Path, files: EventFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_files, "MAX_FILES", 1)
    with (tmp_path / f"{NAME}.b").open("wb", buffering=0) as known:
        known.write(file_of(event(1, scalar("loss", 0.5))))
        assert files.poll() == [at(1, loss=0.5)]
        (tmp_path / f"{NAME}.a").write_bytes(file_of(event(1, scalar("other", 0.5))))
        known.write(record(event(2, scalar("loss", 0.25))))
    assert files.poll() == [at(2, loss=0.25)]
    assert len(files.notes) == 1 and files.notes[0].startswith("More than 1 TensorBoard event files")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(
    content=st.lists(
        st.one_of(
            st.binary(max_size=60),
            st.binary(max_size=60).map(record),
            st.binary(max_size=30).map(lambda data: record(event(1, field(5, data)))),
            st.binary(max_size=30).map(lambda data: record(event(1, valued("x", field(8, data))))),
        ),
        max_size=6,
    ).map(b"".join)
)
def test_any_content_is_read_without_an_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / NAME).write_bytes(content)
    files = EventFiles(Folder(tmp_path), since=0)
    assert all(value is None or isinstance(value, float) for point in files.poll() for value in point.values.values())
    files.poll()
    assert len(files.notes) <= 1


def test_files_are_found_beside_a_crowded_folder_and_it_is_said(
    tmp_path: Path, files: EventFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(found_files, "MOST_ENTRIES", 60)
    for number in range(100):
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "data" / f"{number}.png").touch()
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / NAME).write_bytes(file_of(event(1, scalar("loss", 0.5))))
    assert files.poll() == [at(1, loss=0.5)]
    assert len(files.notes) == 1 and "not looked at" in files.notes[0]
