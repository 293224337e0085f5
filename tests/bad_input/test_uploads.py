"""Files that are too large, too many, misnamed, damaged or no data: refused in time, with a sentence, and nothing left behind."""

from __future__ import annotations

import hashlib
import io
import json
import pickle
import resource
import struct
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from sqlalchemy import func, select, update

from models.base import db, now, transaction
from models.uploads import Upload
from services import dataset_inspection, inspections, uploads
from services.gateways import gateways
from tests.conftest import PASSWORD, member
from tests.factories import on_plan, rows_file
from tests.routes.test_contract import error_of, post_file

OCTETS = {"Content-Type": "application/octet-stream"}
MEGABYTE = 1024 * 1024


def folder() -> Path:
    return gateways().storage.root / "uploads"


def begun(client: FlaskClient, size: int = 10, **more: Any) -> str:
    """The address of a new upload."""
    made = client.post("/api/uploads", json={"name": "rows.jsonl", "size": size, **more})
    assert made.status_code == 201
    return f"/api/uploads/{made.get_json()['id']}"


def put(client: FlaskClient, url: str, piece: bytes, offset: object) -> Any:
    return client.patch(url, data=piece, headers={**OCTETS, "Upload-Offset": str(offset)})


def nothing_is_stored() -> bool:
    left = list(folder().iterdir()) if folder().exists() else []
    return not left and db.session.scalar(select(func.count(Upload.id))) == 0


class TestSizes:
    def test_a_form_whose_length_was_not_told_ends_at_the_plans_limit(
        self, sqlite_app: Flask, browser: FlaskClient
    ) -> None:
        head = b'--x\r\nContent-Disposition: form-data; name="name"\r\n\r\nrows\r\n--x\r\n'
        head += b'Content-Disposition: form-data; name="file"; filename="rows.jsonl"\r\n\r\n'
        refused = browser.post(
            "/api/datasets", content_type="multipart/form-data; boundary=x",
            environ_overrides={
                "wsgi.input": Endless(head), "wsgi.input_terminated": True, "HTTP_TRANSFER_ENCODING": "chunked"
            },
        )  # fmt: skip
        assert refused.status_code == 413 and error_of(refused)
        assert nothing_is_stored()
        assert browser.get("/api/datasets").get_json() == []

    def test_a_file_larger_than_any_text_of_a_form_is_taken(self, sqlite_app: Flask, browser: FlaskClient) -> None:
        made = post_file(browser, rows_file(30_000))
        assert made.status_code == 201 and made.get_json()["rows"] == 30_000

    def test_a_file_above_the_limit_inside_a_shorter_form_is_removed(
        self, sqlite_app: Flask, browser: FlaskClient
    ) -> None:
        refused = post_file(browser, b"a" * 100_500_000)
        assert refused.status_code == 413 and "100.0 MB on your plan" in error_of(refused)["fields"]["file"]
        assert nothing_is_stored()

    @pytest.mark.parametrize("given", [
        {"size": 0}, {"size": -1}, {"size": 1.5}, {"size": "10"}, {"size": True}, {"size": 2**70}, {"size": None}, {},
        {"size": 5, "sha256": "x"}, {"size": 5, "sha256": "A" * 64}, {"size": 5, "sha256": 7},
    ])  # fmt: skip
    def test_an_upload_is_announced_with_its_real_size(
        self, sqlite_app: Flask, browser: FlaskClient, given: dict[str, Any]
    ) -> None:
        refused = browser.post("/api/uploads", json={"name": "rows.jsonl", **given})
        assert refused.status_code in (413, 422) and error_of(refused)["fields"]
        assert nothing_is_stored()

    @pytest.mark.parametrize("fields, length", [(1001, 1), (20, 50_000), (1, 600_000)])
    def test_a_form_of_many_parts_or_much_text_is_refused(
        self, sqlite_app: Flask, browser: FlaskClient, fields: int, length: int
    ) -> None:
        data = {f"f{number}": "a" * length for number in range(fields)}
        data["file"] = (io.BytesIO(b"{}"), "rows.jsonl")  # type: ignore[assignment]
        refused = browser.post("/api/datasets", data=data, content_type="multipart/form-data")
        assert refused.status_code == 413 and nothing_is_stored()


class TestPieces:
    def test_after_completion_nothing_can_be_added(self, sqlite_app: Flask, browser: FlaskClient) -> None:
        url = begun(browser)
        assert put(browser, url, b"0123456789", 0).status_code == 204
        assert browser.post(f"{url}/complete").status_code == 200
        for offset in (0, 10):
            assert put(browser, url, b"more", offset).status_code in (409, 413)
        assert browser.post(f"{url}/complete").status_code == 200
        assert browser.head(url).headers["Upload-Offset"] == "10"

    @pytest.mark.parametrize("offset", ["", "-1", "+0", "0x0", "1e1", " ", "٠", "9" * 20, "0, 0"])
    def test_an_offset_is_a_number(self, sqlite_app: Flask, browser: FlaskClient, offset: str) -> None:
        url = begun(browser)
        given = {"Upload-Offset": offset.encode().decode("latin-1")}
        refused = browser.patch(url, data=b"ab", headers={**OCTETS, **given})
        assert refused.status_code == 422 and "Upload-Offset" in error_of(refused)["message"]
        assert browser.head(url).headers["Upload-Offset"] == "0"

    def test_a_piece_that_comes_twice_at_once_is_stored_once(self, app: Flask, browser: FlaskClient) -> None:
        url = begun(browser, 8)
        codes: list[int] = []

        def send() -> None:
            one = app.test_client()
            one.set_cookie("session", browser.get_cookie("session").value)  # type: ignore[union-attr]
            codes.append(put(one, url, b"12345678", 0).status_code)

        both = [threading.Thread(target=send) for _ in range(4)]
        for one in both:
            one.start()
        for one in both:
            one.join()
        assert sorted(codes) == [204, 409, 409, 409]
        assert browser.head(url).headers["Upload-Offset"] == "8"

    def test_damaged_bytes_are_dropped_and_the_right_ones_taken(self, sqlite_app: Flask, browser: FlaskClient) -> None:
        url = begun(browser, 4, sha256=hashlib.sha256(b"abcd").hexdigest())
        put(browser, url, b"abcX", 0)
        refused = browser.post(f"{url}/complete")
        assert (refused.status_code, error_of(refused)["code"]) == (422, "damaged")
        assert put(browser, url, b"abcd", 0).status_code == 204
        assert browser.post(f"{url}/complete").status_code == 200

    def test_a_strangers_upload_and_none_look_the_same(self, sqlite_app: Flask, browser: FlaskClient) -> None:
        url = begun(browser)
        bob = sqlite_app.test_client()
        bob.post("/login", json={"email": "bob@example.com", "password": PASSWORD})
        nowhere = "/api/uploads/00000000-0000-0000-0000-000000000000"
        for ask in (lambda one: put(bob, one, b"ab", 0), lambda one: bob.post(f"{one}/complete")):
            theirs, none = ask(url), ask(nowhere)
            assert theirs.status_code == none.status_code == 404 and theirs.get_json() == none.get_json()
        assert bob.post("/api/datasets", json={"name": "x", "upload": url.rpartition("/")[2]}).status_code == 404
        assert bob.head(url).status_code == bob.head(nowhere).status_code == 404

    def test_an_expired_upload_is_gone(self, sqlite_app: Flask, browser: FlaskClient) -> None:
        url = begun(browser)
        with transaction():
            db.session.execute(update(Upload).values(expires_at=now() - timedelta(seconds=1)))
        assert put(browser, url, b"ab", 0).status_code == 404
        assert uploads.expire() == 1 and nothing_is_stored()


class TestQuantity:
    def test_the_eleventh_half_open_upload_is_too_many(self, app: Flask, browser: FlaskClient) -> None:
        codes: list[int] = []

        def ask() -> None:
            one = app.test_client()
            one.set_cookie("session", browser.get_cookie("session").value)  # type: ignore[union-attr]
            codes.extend(one.post("/api/uploads", json={"name": "x", "size": 5}).status_code for _ in range(5))

        several = [threading.Thread(target=ask) for _ in range(4)]
        for one in several:
            one.start()
        for one in several:
            one.join()
        assert sorted(codes) == [201] * 10 + [429] * 10
        refused = browser.post("/api/uploads", json={"name": "x", "size": 5})
        assert refused.status_code == 429 and error_of(refused)["code"] == "too_many_uploads"
        bob = app.test_client()
        bob.post("/login", json={"email": "bob@example.com", "password": PASSWORD})
        assert bob.post("/api/uploads", json={"name": "x", "size": 5}).status_code == 201

    def test_whole_files_that_nothing_uses_do_not_pile_up(self, sqlite_app: Flask, browser: FlaskClient) -> None:
        for number in range(13):
            refused = post_file(browser, b'{"question": "q", "answer": "a"}\n' * 3, f"rows-{number}.jsonl")
            assert refused.status_code == 422
        assert len(list(folder().iterdir())) == 10
        names = set(db.session.scalars(select(Upload.name)))
        assert names == {f"rows-{number}.jsonl" for number in range(3, 13)}

    def test_without_room_on_the_disk_an_upload_is_not_begun(
        self, sqlite_app: Flask, browser: FlaskClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(uploads, "RESERVE_BYTES", 2**62)
        refused = browser.post("/api/uploads", json={"name": "x", "size": 5})
        assert (refused.status_code, error_of(refused)["code"]) == (507, "disk_full")
        assert post_file(browser, rows_file(10)).status_code == 507
        assert nothing_is_stored()
        assert browser.get("/api/subscription").status_code == 200

    def test_a_disk_that_is_full_in_the_middle_of_a_piece_says_so_and_the_upload_goes_on_later(
        self, sqlite_app: Flask, browser: FlaskClient
    ) -> None:
        url = begun(browser, 8)
        place = folder() / url.rpartition("/")[2]
        place.unlink()
        place.symlink_to("/dev/full")
        refused = put(browser, url, b"12345678", 0)
        assert (refused.status_code, error_of(refused)["code"]) == (507, "disk_full")
        assert browser.head(url).headers["Upload-Offset"] == "0"
        place.unlink()
        place.touch()
        assert put(browser, url, b"12345678", 0).status_code == 204

    def test_a_form_that_no_longer_fits_on_the_disk_leaves_nothing(
        self, sqlite_app: Flask, browser: FlaskClient, small_files: None
    ) -> None:
        head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="rows.jsonl"\r\n\r\n'
        body = head + b"a" * (21 * MEGABYTE) + b"\r\n--x--\r\n"
        refused = browser.post("/api/datasets", data=body, content_type="multipart/form-data; boundary=x")
        assert (refused.status_code, error_of(refused)["code"]) == (507, "disk_full")
        assert nothing_is_stored()


class TestReading:
    """A file that becomes a data set is read by a process of its own: once, and not by any number of them at once."""

    def test_of_six_requests_that_use_one_upload_one_does(self, app: Flask, browser: FlaskClient) -> None:
        url = begun(browser, len(rows_file(500)))
        put(browser, url, rows_file(500), 0)
        browser.post(f"{url}/complete")
        answers: list[Any] = []

        def ask(number: int) -> None:
            one = app.test_client()
            one.set_cookie("session", browser.get_cookie("session").value)  # type: ignore[union-attr]
            given = {"name": f"rows {number}", "upload": url.rpartition("/")[2]}
            answers.append(one.post("/api/datasets", json=given))

        several = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
        for one in several:
            one.start()
        for one in several:
            one.join()
        codes = sorted(answer.status_code for answer in answers)
        assert codes[0] == 201 and set(codes[1:]) <= {404, 409}
        assert all(error_of(answer)["message"] for answer in answers if answer.status_code != 201)
        assert len(browser.get("/api/datasets").get_json()) == 1 and list(folder().iterdir()) == []

    def test_an_upload_that_could_not_be_used_can_be_used_again(self, app: Flask, browser: FlaskClient) -> None:
        content = b'{"question": "q", "answer": "a"}\n' * 3
        url = begun(browser, len(content))
        put(browser, url, content, 0)
        browser.post(f"{url}/complete")
        given = {"name": "rows", "upload": url.rpartition("/")[2]}
        assert browser.post("/api/datasets", json=given).status_code == 422
        mapping = {"prompt": "question", "completion": "answer"}
        assert browser.post("/api/datasets", json={**given, "mapping": mapping}).status_code == 201

    def test_while_it_is_read_an_upload_takes_no_piece_and_is_not_used_twice(
        self, app: Flask, browser: FlaskClient, reading: Reading
    ) -> None:
        url = begun(browser, len(rows_file(5)))
        put(browser, url, rows_file(5), 0)
        browser.post(f"{url}/complete")
        given = {"name": "rows", "upload": url.rpartition("/")[2]}
        with reading.by(lambda: browser.post("/api/datasets", json=given)):
            assert put(browser, url, b"more", 0).status_code == 409
            assert browser.post(f"{url}/complete").status_code == 200
            refused = browser.post("/api/datasets", json={**given, "name": "again"})
            assert (refused.status_code, error_of(refused)["code"]) == (409, "upload_in_use")
        assert reading.answers[0].status_code == 201

    def test_one_file_of_a_member_is_read_at_a_time_and_the_next_is_told_when_to_come_back(
        self, app: Flask, browser: FlaskClient, reading: Reading
    ) -> None:
        with reading.by(lambda: post_file(browser, rows_file(5), name="one.jsonl")):
            refused = post_file(browser, rows_file(6), "two.jsonl")
            assert (refused.status_code, error_of(refused)["code"]) == (429, "reading")
            assert 1 <= int(refused.headers["Retry-After"]) <= 60
            page = browser.post("/datasets", data={"name": "rows", "file": (io.BytesIO(rows_file(6)), "rows.jsonl")})
            assert page.status_code == 429 and "is being read" in page.text
        assert reading.answers[0].status_code == 201
        assert post_file(browser, rows_file(6), "two.jsonl").status_code == 201

    def test_of_all_members_two_files_are_read_at_a_time(
        self, app: Flask, browser: FlaskClient, reading: Reading
    ) -> None:
        bob, carol = app.test_client(), app.test_client()
        bob.post("/login", json={"email": "bob@example.com", "password": PASSWORD})
        carol.post("/signup", json={"email": "carol@example.com", "username": "carol", "password": PASSWORD})
        with reading.by(lambda: post_file(browser, rows_file(5))), reading.by(lambda: post_file(bob, rows_file(5))):
            assert post_file(carol, rows_file(5)).status_code == 429
        assert [answer.status_code for answer in reading.answers] == [201, 201]
        assert post_file(carol, rows_file(5)).status_code == 201

    def test_an_upload_whose_reader_died_can_be_used_an_hour_later(self, app: Flask, browser: FlaskClient) -> None:
        url = begun(browser, len(rows_file(5)))
        put(browser, url, rows_file(5), 0)
        browser.post(f"{url}/complete")
        given = {"name": "rows", "upload": url.rpartition("/")[2]}
        with transaction():
            db.session.execute(update(Upload).values(state="in_use"))
        assert browser.post("/api/datasets", json=given).status_code == 409
        assert uploads.expire() == 0
        with transaction():
            db.session.execute(update(Upload).values(expires_at=now() - timedelta(seconds=1)))
        assert uploads.expire() == 0
        assert browser.post("/api/datasets", json=given).status_code == 201


class Reading:
    """Holds on to the reading of files: it begins, and goes on once the test lets it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.answers: list[Any] = []
        self._began, self._go_on = threading.Semaphore(0), threading.Event()
        real = dataset_inspection.inspect

        def inspect(*given: Any) -> dict[str, Any]:
            self._began.release()
            assert self._go_on.wait(60)
            return real(*given)

        monkeypatch.setattr(dataset_inspection, "inspect", inspect)
        monkeypatch.setattr(inspections, "PATIENCE_SECONDS", 0.2)

    @contextmanager
    def by(self, ask: Callable[[], Any]) -> Iterator[None]:
        """Let this request read during the block."""
        thread = threading.Thread(target=lambda: self.answers.append(ask()))
        thread.start()
        assert self._began.acquire(timeout=60)
        try:
            yield
        finally:
            self._go_on.set()
            thread.join()


@pytest.fixture
def reading(monkeypatch: pytest.MonkeyPatch) -> Reading:
    return Reading(monkeypatch)


@pytest.fixture
def small_files() -> Iterator[None]:
    """A disk on which no file can grow beyond 20 MB."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20 * MEGABYTE, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


class TestNames:
    @pytest.mark.parametrize("name", [
        "", "a" * 256, "a" * 4096, "rows\n.jsonl", "rows\r\nSet-Cookie: x=1", "tab\t", "esc\x1b[31m", "del\x7f", "csi\x9b",
        "exe\u202elnosj.exe", "\u2066hidden", "line\u2028break",
    ])  # fmt: skip
    def test_a_name_that_would_deceive_is_refused(self, sqlite_app: Flask, browser: FlaskClient, name: str) -> None:
        refused = browser.post("/api/uploads", json={"name": name, "size": 5})
        assert refused.status_code == 422 and "name" in error_of(refused)["fields"]
        assert nothing_is_stored()

    @pytest.mark.parametrize("name", [
        "../../etc/passwd", "/etc/passwd", "C:\\Windows\\win.ini", "..", "con.jsonl", 'a"b;c.jsonl', "a'--.jsonl",
        "<img src=x onerror=alert(1)>.jsonl", "{{7*7}}.jsonl", "%2e%2e%2f.jsonl", "データ\u3000一.jsonl", "👩‍👩‍👧.jsonl", "~root",
    ])  # fmt: skip
    def test_a_strange_name_is_only_shown_and_never_a_path(
        self, sqlite_app: Flask, browser: FlaskClient, name: str
    ) -> None:
        made = browser.post("/api/uploads", json={"name": name, "size": len(rows_file(5))}).get_json()
        assert [path.name for path in folder().iterdir()] == [made["id"]]
        put(browser, f"/api/uploads/{made['id']}", rows_file(5), 0)
        browser.post(f"/api/uploads/{made['id']}/complete")
        version = browser.post("/api/datasets", json={"name": f"of {name}", "upload": made["id"]})
        if version.status_code != 201:  # by its ending it is not one of the kinds that are read
            assert version.status_code == 422 and error_of(version)
            return
        page = browser.get(f"/datasets/{version.get_json()['id']}").text
        assert "<img src=x" not in page and "49.jsonl" not in page
        kept = gateways().storage.root / "datasets"
        assert all(path.name.isalnum() and path.parent == kept for path in kept.iterdir())


def archive(kind: str) -> bytes:
    out = io.BytesIO()
    if kind == "tar":
        with tarfile.open(fileobj=out, mode="w") as tar:
            tar.addfile(tarfile.TarInfo("../evil"), io.BytesIO())
    else:
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as bomb:
            bomb.writestr("rows.jsonl", b"\0" * 10_000_000)
    return out.getvalue()


class Bomb:
    """What a pickle can do when it is loaded: here, make a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.mark,))


TENSORS = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()


class TestContents:
    @pytest.mark.parametrize("content, name", [
        (archive("zip"), "rows.zip"), (archive("zip"), "rows.jsonl"), (archive("tar"), "rows.tar"), (archive("tar"), "rows.csv"),
        (b"7z\xbc\xaf\x27\x1c" + b"\0" * 100, "rows.7z"), (b"Rar!\x1a\x07\x01\x00" + b"\0" * 100, "rows.rar"),
        (b"MZ\x90\x00" + b"\0" * 200, "rows.csv"), (b"<!DOCTYPE html><html><script>x</script></html>", "rows.csv"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>', "rows.json"),
        (b"\x89PNG\r\n\x1a\n" + b"\0" * 60, "rows.jsonl"), (struct.pack("<Q", len(TENSORS)) + TENSORS + b"\0\0\0\0", "model.safetensors"),
        (struct.pack("<Q", 100_000_000) + b"{" * 1000, "model.safetensors"),
        (b"a" * 1000 + b"\0", "rows.txt"), (b"prompt,completion\n", "empty.csv"), (b",".join(b"c%d" % n for n in range(100_000)), "wide.csv"),
    ], ids=[
        "zip", "zip-as-jsonl", "tar", "tar-as-csv", "7z", "rar", "exe-as-csv", "html-as-csv", "svg-as-json", "png-as-jsonl",
        "safetensors", "safetensors-large-header", "nul", "csv-of-no-rows", "csv-of-100000-columns",
    ])  # fmt: skip
    def test_what_is_no_data_set_is_refused_with_a_sentence_and_before_a_row_exists(
        self, sqlite_app: Flask, browser: FlaskClient, content: bytes, name: str
    ) -> None:
        refused = post_file(browser, content, name)
        assert refused.status_code in (415, 422) and len(error_of(refused)["message"]) > 20
        assert browser.get("/api/datasets").get_json() == []

    def test_a_line_of_100_megabytes_is_one_bad_row(self, sqlite_app: Flask, browser: FlaskClient) -> None:
        on_plan(member("alice"), "basic")
        long = b'{"prompt": "' + b"a" * 100_000_000 + b'", "completion": "b"}\n'
        made = post_file(browser, rows_file(3) + b"\n" + long + rows_file(2))
        assert made.status_code == 201, made.text[:500]
        assert (made.get_json()["rows"], made.get_json()["bad_rows"][0]["line"]) == (5, 4)

    def test_a_cell_of_100_megabytes_is_one_bad_row(self, sqlite_app: Flask, browser: FlaskClient) -> None:
        on_plan(member("alice"), "basic")
        rows = [b"prompt,completion", b"one,1", b"a" * 100_000_000 + b",2", b"three,3"]
        made = post_file(browser, b"\n".join(rows) + b"\n", "rows.csv")
        assert made.status_code == 201, made.text[:500]
        assert (made.get_json()["rows"], made.get_json()["bad_rows"][0]["line"]) == (2, 3)

    @pytest.mark.parametrize("name", ["model.pt", "model.bin", "weights.pkl", "rows.jsonl", "rows.csv"])
    def test_a_pickle_is_never_loaded(self, sqlite_app: Flask, browser: FlaskClient, tmp_path: Path, name: str) -> None:
        mark = tmp_path / "it-ran"
        refused = post_file(browser, pickle.dumps(Bomb(mark), 4), name)
        assert refused.status_code in (415, 422) and error_of(refused)
        post_file(browser, pickle.dumps(Bomb(mark), 0), name)  # the oldest kind is letters and may be plain text to us
        assert not mark.exists()


class Endless:
    """A body that never ends."""

    def __init__(self, head: bytes) -> None:
        self._head = head
        self.given = 0

    def read(self, size: int) -> bytes:
        count = min(size, 65_536)
        piece, self._head = self._head[:count], self._head[count:]
        piece += b"a" * (count - len(piece))
        self.given += count
        assert self.given < 200 * MEGABYTE, "it is read without end"
        return piece
