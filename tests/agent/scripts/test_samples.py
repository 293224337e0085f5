"""What a script shows while it trains: whole, in pieces that fit, each file once for each state it was in."""

from __future__ import annotations

import base64
import gc
import os
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from agent.masking import SecretMasker
from agent.runner.output import in_pieces
from agent.scripts.found_files import Folder
from agent.scripts.samples import MOST_IMAGE_BYTES, MOST_SAMPLES, Samples, kind_of
from tests.agent.scripts.test_images import png

PNG = b"\x89PNG\r\n\x1a\n"


def taken(samples: Samples, step: int = 5, last: bool = True) -> list[dict[str, Any]]:
    return list(samples.poll(step, last))


def test_a_file_is_taken_once_it_is_at_rest_and_again_when_it_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.scripts.samples.AGAIN_SECONDS", 0.0)
    samples = Samples(Folder(tmp_path), 0)
    (tmp_path / "a.txt").write_text("one")
    assert taken(samples, last=False) == []
    assert [piece["text"] for piece in taken(samples, last=False)] == ["one"]
    assert taken(samples, last=False) == []
    (tmp_path / "a.txt").write_text("other")
    assert taken(samples, last=False) == []
    assert [piece["text"] for piece in taken(samples, last=False)] == ["other"]


def test_a_file_that_is_written_again_and_again_is_sent_now_and_then_and_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1_000.0]
    monkeypatch.setattr("agent.scripts.samples.monotonic", lambda: clock[0])
    samples, sent = Samples(Folder(tmp_path), 0), []
    for second in range(26):
        (tmp_path / "latest.txt").write_text("x" * (second + 1))
        assert taken(samples, last=False) == []  # not at rest
        sent += [len(piece["text"]) for piece in taken(samples, last=False)]
        clock[0] += 1
    assert sent == [1, 11, 21]
    (tmp_path / "other.txt").write_text("y")
    assert sorted(piece["text"] for piece in taken(samples)) == ["x" * 26, "y"]


def test_a_small_file_that_claims_more_pixels_than_a_browser_can_show_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "bomb.png").write_bytes(png(50_000, 50_000))
    (tmp_path / "fine.png").write_bytes(png(5_000, 5_000))
    samples = Samples(Folder(tmp_path), 0)
    assert [piece["name"] for piece in taken(samples)] == ["fine.png"]
    assert samples.notes == [
        "The sample bomb.png is not shown: it is 50,000 × 50,000 pixels large, at most 40,000,000 are."
    ]


def test_an_image_comes_in_pieces_that_add_up(tmp_path: Path) -> None:
    content = PNG + os.urandom(50_000)
    (tmp_path / "step-0040.png").write_bytes(content)
    pieces = taken(Samples(Folder(tmp_path), 0))
    assert b"".join(base64.b64decode(piece["data"]) for piece in pieces) == content
    assert {(piece["step"], piece["type"], piece["bytes"], piece["pieces"]) for piece in pieces} == {
        (40, "png", 50_008, 4)
    }
    assert [piece["piece"] for piece in pieces] == [0, 1, 2, 3]


def test_a_long_text_comes_in_pieces_that_add_up_with_no_secret_cut_in_two(tmp_path: Path) -> None:
    secret, text = "sk-live-0123456789abcdef", "Prüfung 😀\n" * 3_000
    (tmp_path / "story.md").write_text(text[:3_990] + secret + text[3_990:])
    (whole,) = taken(Samples(Folder(tmp_path), 0), step=9)
    pieces = list(in_pieces(SecretMasker([secret]).mask(whole)))
    assert "".join(piece["text"] for piece in pieces) == text[:3_990] + "***" + text[3_990:]
    assert all(piece["step"] == 9 and len(piece["text"]) <= 4_000 for piece in pieces)
    assert [(piece["piece"], piece["pieces"]) for piece in pieces] == [(n, len(pieces)) for n in range(len(pieces))]


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("a.txt", b"hello", "text"),
        ("a.png", PNG, "png"),
        ("renamed.txt", PNG, "png"),
        ("a.jpg", b"\xff\xd8\xff\xe0", "jpeg"),
        ("a.webp", b"RIFF\0\0\0\0WEBPVP8 ", "webp"),
        ("a.svg", b"<svg onload='alert(1)'/>", None),
        ("a.html", b"<script>", None),
        ("a.txt", b"bin\0ary", None),
        ("a.pt", b"PK\x03\x04", None),
    ],
)
def test_a_file_is_what_its_first_bytes_say(name: str, content: bytes, kind: str | None) -> None:
    assert kind_of(name, content) == kind


def test_what_cannot_be_shown_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "huge.png").write_bytes(PNG + bytes(MOST_IMAGE_BYTES))
    (tmp_path / "weights.pt").write_bytes(b"PK\x03\x04")
    samples = Samples(Folder(tmp_path), 0)
    assert taken(samples) == [] and taken(samples) == []
    assert len(samples.notes) == 2


def test_there_is_an_end_to_how_many_are_shown(tmp_path: Path) -> None:
    for number in range(MOST_SAMPLES + 20):
        (tmp_path / f"{number}.txt").write_text("x")
    samples = Samples(Folder(tmp_path), 0)
    assert len(taken(samples)) == MOST_SAMPLES
    assert samples.notes == [f"Only the first {MOST_SAMPLES} samples are shown."]


def test_names_that_are_gone_are_forgotten(tmp_path: Path) -> None:
    """A script that renames its files between two looks made the memory of them grow without end."""
    samples = Samples(Folder(tmp_path), 0)
    names = [f"{number:04}{'a' * 200}" for number in range(1_000)]
    for name in names:
        (tmp_path / name).touch()
    held = list[int]()
    tracemalloc.start()
    for look in range(5):
        assert taken(samples, last=False) == []
        gc.collect()
        held.append(tracemalloc.get_traced_memory()[0])
        for name in names:
            (tmp_path / f"{name}{look or ''}").rename(tmp_path / f"{name}{look + 1}")
    tracemalloc.stop()
    assert held[-1] < 2 * held[0]
