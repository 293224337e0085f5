"""Bulk over HTTP: resumed, checked, persistent, and never anywhere but to the one server."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from agent.addresses import http_base
from agent.errors import JobFailed
from agent.protocol import JobSpec
from agent.runner import Withdrawn
from agent.scripts.terms import Terms
from agent.settings import Timings
from agent.transfers import retries, uploads
from agent.transfers.depot import ServerDepot, safe_name
from agent.transfers.downloads import download
from agent.transfers.retries import persistently
from agent.transfers.server import Refused, Server, Trouble
from agent.transfers.uploads import upload
from agent.workspace import Task
from tests.agent.fake_server import FakeServer
from tests.proxy import TcpProxy, Wire

CONTENT = bytes(range(256)) * 40


@pytest.fixture
def server(site: FakeServer) -> Server:
    return Server(http_base(site.url), "tj_1_1_token", seconds=3.0)


def quiet(_message: str) -> None:
    """A `say` that nobody hears."""


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def fetch(site: FakeServer, server: Server, target: Path, content: bytes = CONTENT, digest: str | None = None) -> Path:
    site.files["/api/data"] = content
    return download(server, "/api/data", target, digest or sha(content), quiet, len(content))


def test_a_file_is_downloaded_and_checked(site: FakeServer, server: Server, tmp_path: Path) -> None:
    target = fetch(site, server, tmp_path / "data" / "rows.jsonl")
    assert target.read_bytes() == CONTENT
    assert [path.name for path in target.parent.iterdir()] == ["rows.jsonl"]


def test_what_is_here_already_is_not_fetched_again(site: FakeServer, server: Server, tmp_path: Path) -> None:
    fetch(site, server, tmp_path / "rows.jsonl")
    fetch(site, server, tmp_path / "rows.jsonl")
    assert len(site.requests) == 1


@pytest.mark.parametrize("trouble", ["cut", "half", "500", "503"])
def test_a_download_survives_trouble_and_goes_on_where_it_was(
    site: FakeServer, server: Server, tmp_path: Path, trouble: str
) -> None:
    site.trouble = [trouble, trouble]
    assert fetch(site, server, tmp_path / "rows.jsonl").read_bytes() == CONTENT


def test_a_download_goes_on_after_a_restart(site: FakeServer, server: Server, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl.part").write_bytes(CONTENT[:5000])
    assert fetch(site, server, tmp_path / "rows.jsonl").read_bytes() == CONTENT


@pytest.mark.parametrize("left", [b"x" * 100, b"x" * len(CONTENT), b"x" * (len(CONTENT) + 5)])
def test_what_was_left_of_another_file_is_thrown_away(
    site: FakeServer, server: Server, tmp_path: Path, left: bytes
) -> None:
    (tmp_path / "rows.jsonl.part").write_bytes(left)
    assert fetch(site, server, tmp_path / "rows.jsonl").read_bytes() == CONTENT


def test_a_file_that_is_not_what_was_announced_fails_after_a_second_try(
    site: FakeServer, server: Server, tmp_path: Path
) -> None:
    with pytest.raises(JobFailed) as failure:
        fetch(site, server, tmp_path / "rows.jsonl", digest=sha(b"other"))
    assert failure.value.cause == "platform"
    assert len(site.requests) == 2
    assert list(tmp_path.iterdir()) == []


def test_a_file_without_an_end_does_not_fill_the_disk(site: FakeServer, server: Server, tmp_path: Path) -> None:
    site.files["/api/data"] = CONTENT * 500
    with pytest.raises(JobFailed, match="longer than the server announced") as failure:
        download(server, "/api/data", tmp_path / "rows.jsonl", sha(CONTENT), quiet, len(CONTENT))
    assert failure.value.cause == "platform" and list(tmp_path.iterdir()) == []


def test_an_empty_file_is_a_file(site: FakeServer, server: Server, tmp_path: Path) -> None:
    assert fetch(site, server, tmp_path / "empty.txt", content=b"").read_bytes() == b""


@pytest.mark.parametrize("trouble", ["cut", "half", "500", "conflict"])
def test_an_upload_arrives_whole_whatever_happens_on_the_way(
    site: FakeServer, server: Server, tmp_path: Path, trouble: str
) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(CONTENT)
    site.trouble = ["", "", "", trouble, "", trouble]
    name = upload(server, file, "model.safetensors", quiet)
    assert site.uploads[name]["complete"]
    assert bytes(site.uploads[name]["data"]) == CONTENT


def test_a_slow_line_gets_pieces_that_it_carries_within_the_time_of_a_request(
    site: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "QUICK_SECONDS", 0.2)
    monkeypatch.setattr(uploads, "SLOW_SECONDS", 0.8)
    site.chunk_bytes = 1 << 20
    file = tmp_path / "model.safetensors"
    file.write_bytes(CONTENT * 30)
    said: list[str] = []
    with TcpProxy(site.port) as line:
        line.wire = Wire(rate=100_000)
        name = upload(Server(f"http://127.0.0.1:{line.port}", "tj_1_1_token", seconds=3.0), file, "m", said.append)
    assert bytes(site.uploads[name]["data"]) == CONTENT * 30 and site.uploads[name]["complete"]
    assert not any("Waiting" in message for message in said), said


def test_a_fast_line_gets_larger_and_larger_pieces(site: FakeServer, server: Server, tmp_path: Path) -> None:
    site.chunk_bytes = 1 << 20
    file = tmp_path / "model.safetensors"
    file.write_bytes(CONTENT * 500)
    name = upload(server, file, "model.safetensors", quiet)
    assert bytes(site.uploads[name]["data"]) == CONTENT * 500
    assert sum(request.startswith("PATCH") for request in site.requests) <= 9  # 64 KiB, 128 KiB, ... 1 MiB


def test_an_upload_that_was_damaged_on_the_way_is_sent_again(site: FakeServer, server: Server, tmp_path: Path) -> None:
    file = tmp_path / "a"
    file.write_bytes(CONTENT)
    damaged = []

    def damage(message: str) -> None:
        if message.startswith("Sent") and not damaged:
            site.uploads["up1"]["data"][0] ^= 1
            damaged.append(1)

    upload(server, file, "a", damage)
    assert bytes(site.uploads["up1"]["data"]) == CONTENT


def test_an_empty_file_can_be_uploaded(site: FakeServer, server: Server, tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    assert site.uploads[upload(server, tmp_path / "empty", "empty", quiet)]["complete"]


def test_an_answer_that_is_not_the_servers_is_not_taken_for_one(
    site: FakeServer, server: Server, tmp_path: Path
) -> None:
    (tmp_path / "a").write_bytes(b"a")
    site.trouble = ["page"]
    assert site.uploads[upload(server, tmp_path / "a", "a", quiet)]["complete"]


def test_a_refusal_is_final_and_carries_the_servers_sentence(site: FakeServer, server: Server, tmp_path: Path) -> None:
    site.gone = True
    with pytest.raises(Refused, match="There is no such attempt") as refusal:
        fetch(site, server, tmp_path / "rows.jsonl")
    assert refusal.value.status == 404
    assert len(site.requests) == 1


@pytest.mark.parametrize(
    "path", ["https://elsewhere/api/x", "//elsewhere/x", "/data", "/api/../etc", "/api/a b", "/api/a\r\nX: y"]
)
def test_no_other_address_is_ever_opened(site: FakeServer, server: Server, tmp_path: Path, path: str) -> None:
    with pytest.raises(Refused, match="does not open"):
        download(server, path, tmp_path / "x", sha(b""), quiet)
    assert site.requests == []


def test_a_redirect_is_not_followed(site: FakeServer, server: Server, tmp_path: Path) -> None:
    site.trouble = ["302"]
    with pytest.raises(Refused) as refusal:
        fetch(site, server, tmp_path / "rows.jsonl")
    assert refusal.value.status == 302


def test_waiting_is_told_and_can_be_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries.random, "uniform", lambda low, high: 10.0)
    said: list[str] = []

    class Stop(Exception):
        pass

    def say(message: str) -> None:
        said.append(message)
        if len(said) > 5:
            raise Stop

    def work() -> None:
        raise Trouble("the server answered 503: busy")

    with pytest.raises(Stop):
        persistently(work, say)
    assert "Waiting: the server answered 503: busy." in said


def test_a_server_that_is_away_for_hours_is_still_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    windows: list[float] = []
    monkeypatch.setattr(retries.random, "uniform", lambda _low, high: windows.append(high) or 0.0)

    def work() -> str:
        if len(windows) < 3_000:
            raise Trouble("nothing answers")
        return "there"

    assert persistently(work, quiet) == "there"
    assert windows == sorted(windows) and windows[0] == 0.5 and windows[-1] == 60.0


def test_after_a_day_it_gives_up() -> None:
    def work() -> None:
        raise Trouble("nobody there")

    with pytest.raises(TimeoutError, match="nobody there"):
        persistently(work, quiet, give_up_after=0.0)


@pytest.mark.parametrize("name", ["model.safetensors", "merged/config.json", "a b_c-1.json", "epoch=3-step=400.ckpt"])
def test_plain_names_of_files_are_taken(name: str) -> None:
    assert safe_name(name) == name


@pytest.mark.parametrize(
    "name", ["", "../x", "a/../../x", "/etc/passwd", "a//b", ".ssh/key", "a\\b", "a\0b", "x" * 300]
)
def test_names_that_could_lead_elsewhere_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="plain file name"):
        safe_name(name)


def depot(site: FakeServer, *roots: Path, **fields: Any) -> tuple[ServerDepot, JobSpec]:
    given: dict[str, Any] = {
        "job": 1, "attempt": 1, "name": "n", "recipe": "pretend", "parameters": {}, "data": {}, "mapping": None,
        "base_model": "yard-tiny", "base_name": "yard-tiny", "token": "tj_1_1_token", **fields,
    }  # fmt: skip
    spec = JobSpec(**given)
    return ServerDepot(
        Task(spec, site.url, Terms(roots=tuple(str(root) for root in roots)), Timings(request=3.0))
    ), spec


def test_the_depot_brings_a_data_set_under_a_harmless_name(site: FakeServer, tmp_path: Path) -> None:
    data = site.dataset(b"rows\n", name="../../.bashrc")
    one, spec = depot(site, data=data)
    path = one.fetch_data(spec, tmp_path, quiet)
    assert path.read_bytes() == b"rows\n"
    assert path.parent == tmp_path / "data"


def test_the_depot_uses_a_local_file_only_inside_the_roots(site: FakeServer, tmp_path: Path) -> None:
    root = tmp_path / "models"
    root.mkdir()
    (root / "rows.jsonl").write_text("{}\n")
    (tmp_path / "other.jsonl").write_text("{}\n")
    one, spec = depot(site, root, data={"kind": "local", "path": str(root / "rows.jsonl")})
    assert one.fetch_data(spec, tmp_path, quiet) == root / "rows.jsonl"
    (root / "link.jsonl").symlink_to(tmp_path / "other.jsonl")
    two, spec = depot(site, root, data={"kind": "local", "path": str(root / "link.jsonl")})
    with pytest.raises(JobFailed, match="outside the folders") as failure:
        two.fetch_data(spec, tmp_path, quiet)
    assert failure.value.cause == "data"
    assert site.requests == []


def test_the_depot_brings_a_model_of_the_members(site: FakeServer, tmp_path: Path) -> None:
    files = []
    for name, content in (("config.json", b"{}"), ("my notes [1].txt", b""), ("merged/model.safetensors", CONTENT)):
        site.files[f"/api/base/{quote(name)}"] = content
        files.append({"name": name, "path": f"/api/base/{name}", "sha256": sha(content), "bytes": len(content)})
    one, spec = depot(site, base_model="model", base_files=files)
    assert one.fetch_base(spec, tmp_path, quiet) == f"folder:{tmp_path / 'base'}"
    assert (tmp_path / "base" / "merged" / "model.safetensors").read_bytes() == CONTENT


def test_the_depot_refuses_a_model_whose_files_want_to_leave_their_folder(site: FakeServer, tmp_path: Path) -> None:
    file = {"name": "../../evil", "path": "/api/base/x", "sha256": sha(b""), "bytes": 0}
    one, spec = depot(site, base_model="model", base_files=[file])
    with pytest.raises(JobFailed) as failure:
        one.fetch_base(spec, tmp_path, quiet)
    assert failure.value.cause == "base_model"


@pytest.mark.parametrize("base", ["yard-tiny", "organisation/model"])
def test_other_bases_are_the_recipes_to_load(site: FakeServer, tmp_path: Path, base: str) -> None:
    one, spec = depot(site, base_model=base)
    assert one.fetch_base(spec, tmp_path, quiet) == base


def test_the_depot_delivers_every_file_and_then_all_of_them_together(site: FakeServer, tmp_path: Path) -> None:
    output = tmp_path / "output"
    (output / "merged").mkdir(parents=True)
    (output / "model.safetensors").write_bytes(CONTENT)
    (output / "merged" / "config.json").write_text("{}")
    one, spec = depot(site)
    one.deliver(spec, output, quiet)
    assert site.attempt(1, 1).artifacts == ["merged/config.json", "model.safetensors"]
    assert all(one["complete"] for one in site.uploads.values())


def test_a_delivery_that_is_not_wanted_any_more_withdraws_the_job(site: FakeServer, tmp_path: Path) -> None:
    (tmp_path / "output").mkdir()
    (tmp_path / "output" / "a").write_text("a")
    site.gone = True
    one, spec = depot(site)
    with pytest.raises(Withdrawn, match="There is no such attempt"):
        one.deliver(spec, tmp_path / "output", quiet)


def test_a_training_that_wrote_nothing_is_no_success(site: FakeServer, tmp_path: Path) -> None:
    one, spec = depot(site)
    with pytest.raises(JobFailed, match="no files"):
        one.deliver(spec, tmp_path / "output", quiet)


@pytest.mark.parametrize(
    ("given", "base"),
    [("ws://localhost:5000", "http://localhost:5000"), ("wss://example.com", "https://example.com")],
)
def test_the_http_address_follows_from_the_sockets(given: str, base: str) -> None:
    assert http_base(given) == base
