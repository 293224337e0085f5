"""What is typed: addresses and keys are checked before anything is opened, and refusals say what to type instead."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from agent.__main__ import main
from agent.config import server_of
from tests.agent import pretend_recipe
from tests.agent.fake_server import KEY, FakeServer

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(autouse=True)
def nothing_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("TRAINYARD_API_KEY", "TRAINYARD_SERVER_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def refused(capsys: pytest.CaptureFixture[str], *typed: str) -> str:
    assert main(typed) == 2
    return capsys.readouterr().err


def test_help_is_answered_by_a_copy_of_the_folder_alone(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "agent", tmp_path / "agent", ignore=shutil.ignore_patterns("__pycache__"))
    answer = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r}); "
         "from agent.__main__ import main; main(['--help'])"], capture_output=True, text=True,
    )  # fmt: skip
    assert answer.returncode == 0, answer.stderr
    assert "doctor" in answer.stdout and "supervise" not in answer.stdout


@pytest.mark.parametrize(
    "given", ["ws://localhost:5000", "ws://127.0.0.1:5000", "ws://[::1]:5000", "wss://example.com"]
)
def test_addresses_that_are_taken(given: str) -> None:
    assert server_of(_options(given)) == given


@pytest.mark.parametrize(
    ("given", "taken"),
    [("http://localhost:5000/", "ws://localhost:5000"), ("https://example.com", "wss://example.com")],
)
def test_a_pages_address_is_understood(given: str, taken: str) -> None:
    assert server_of(_options(given)) == taken


def _options(server: str, insecure: bool = False) -> object:
    import argparse

    return argparse.Namespace(server_url=server, insecure=insecure)


def test_an_unencrypted_connection_to_another_machine_needs_a_word(capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(capsys, "--api-key", "ty_x", "--server-url", "ws://example.com:5000")
    assert "would not be encrypted" in said and "--insecure" in said and "wss://example.com:5000" in said
    assert server_of(_options("ws://example.com:5000", insecure=True)) == "ws://example.com:5000"


@pytest.mark.parametrize("given", ["localhost:5000", "ftp://x", "ws://", "ws://x:99999", "ws://host/path", "ws://a b"])
def test_what_is_no_address_is_refused(given: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert "It looks like ws://localhost:5000" in refused(capsys, "--api-key", "ty_x", "--server-url", given)


def test_a_missing_address_or_key_says_where_to_find_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--server-url" in refused(capsys, "--api-key", "ty_x")
    assert "Agents page" in refused(capsys, "--server-url", "ws://localhost:1")


def test_a_key_with_a_line_break_in_it_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(capsys, "--server-url", "ws://localhost:1", "--api-key", "ty_a\nX-Header: 1")
    assert "Copy it again" in said and "X-Header" not in said


def test_a_folder_that_may_not_be_a_root_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    server = ("--server-url", "ws://localhost:1", "--api-key", "ty_x")
    assert "too wide" in refused(capsys, *server, "--root", "/")
    assert "mkdir -p" in refused(capsys, *server, "--root", str(tmp_path / "absent"))


def test_the_key_may_come_from_the_environment(site: FakeServer, tmp_path: Path) -> None:
    agent = _start(tmp_path, [], TRAINYARD_API_KEY=KEY, TRAINYARD_SERVER_URL=site.url)
    try:
        assert site.wait_for(lambda: site.hellos)
    finally:
        agent.terminate()
        agent.wait()


def _start(tmp_path: Path, typed: list[str], **more: str) -> subprocess.Popen[str]:
    environment = pretend_recipe.environment(tmp_path, HOME=str(tmp_path), **more)
    return subprocess.Popen(
        [sys.executable, "-m", "agent", *typed], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, cwd=tmp_path,
    )  # fmt: skip


def run(tmp_path: Path, *typed: str) -> tuple[int, str, str]:
    process = _start(tmp_path, list(typed))
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def test_one_job_runs_from_a_file_without_a_server(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("{}\n")
    (tmp_path / "job.json").write_text(json.dumps({"name": "first", "recipe": "pretend", "data": "rows.jsonl"}))
    code, out, err = run(tmp_path, "run", "job.json")
    assert code == 0, err
    assert "line 5\n" in out and "Completed. The result lies in" in out
    assert (tmp_path / "first" / "output" / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("not json", "is not JSON"),
        ("[1]", "must hold one JSON object"),
        ('{"recipe": "future", "data": "rows.jsonl"}', "there is no recipe 'future'"),
        ('{"data": "absent.jsonl"}', "there is no file"),
        ('{"data": "rows.jsonl", "paramters": {}}', "there is no field 'paramters'"),
        ('{"data": "rows.jsonl", "parameters": {"learning_rate": -1}}', "Learning rate must be"),
        ("{}", "`data` must name the data file"),
    ],
)
def test_a_file_that_describes_no_job_is_refused(tmp_path: Path, spec: str, said: str) -> None:
    from agent.alone import BadSpec, read_spec

    (tmp_path / "rows.jsonl").write_text("{}\n")
    (tmp_path / "job.json").write_text(spec)
    with pytest.raises(BadSpec) as refusal:
        read_spec(tmp_path / "job.json")
    assert said in str(refusal.value)


def test_a_data_file_becomes_a_data_set(site: FakeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "rows.jsonl").write_text("{}\n" * 7)
    server = ("--server-url", site.url, "--api-key", "ty_full")
    mapping = '{"prompt": "question", "completion": "answer"}'
    assert main(["upload", str(tmp_path / "rows.jsonl"), *server, "--name", "maths", "--mapping", mapping]) == 0
    said = capsys.readouterr().out
    assert "Data set 5: 7 rows" in said and f"{site.url.replace('ws', 'http', 1)}/datasets/5\n" in said
    assert bytes(site.uploads["up1"]["data"]) == b"{}\n" * 7
    (tmp_path / "one.jsonl").write_text("{}\n")
    assert main(["upload", str(tmp_path / "one.jsonl"), *server]) == 0
    assert "Data set 5: 1 row, format" in capsys.readouterr().out


def test_a_training_script_is_a_data_set_without_rows(
    site: FakeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mnist.zip").write_bytes(b"PK")
    server = ("--server-url", site.url, "--api-key", "ty_full")
    assert main(["upload", str(tmp_path / "mnist.zip"), *server, "--kind", "script"]) == 0
    assert "Data set 5: a training script." in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["upload", "--help"])
    assert "script for a zip of a training script" in " ".join(capsys.readouterr().out.split())


def test_columns_that_need_a_mapping_are_refused_with_the_option_that_gives_one(
    site: FakeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.jsonl").write_text("{}\n")
    site.trouble = ["", "", "", "", "mapping"]  # create, offset, piece, complete, and then the data set
    said = refused(capsys, "upload", str(tmp_path / "a.jsonl"), "--server-url", site.url, "--api-key", "ty_full")
    assert "Say which column is what. Give it with --mapping." in said


def test_an_upload_that_is_refused_says_why(
    site: FakeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = ("--server-url", site.url, "--api-key", "ty_full")
    assert "There is no file" in refused(capsys, "upload", str(tmp_path / "absent"), *server)
    (tmp_path / "a").write_text("a")
    assert "--mapping must be JSON" in refused(capsys, "upload", str(tmp_path / "a"), *server, "--mapping", "prompt=a")
    site.trouble = ["401"]
    assert "The server is in trouble." in refused(capsys, "upload", str(tmp_path / "a"), *server)
    assert "Make one that may do everything" in refused(capsys, "upload", str(tmp_path / "a"), *server[:2])


def test_a_key_that_only_connects_a_machine_is_told_apart_once_with_where_to_make_another(
    site: FakeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = ("--server-url", site.url, "--api-key", "ty_agent")
    page = f"{site.url.replace('ws', 'http', 1)}/account"
    for name in ("rows.jsonl", "model.safetensors"):
        (tmp_path / name).write_text("{}")
        site.trouble = ["scope"]
        said = refused(capsys, "upload", str(tmp_path / name), *server).strip().splitlines()[-1]
        assert said.endswith(
            f"This key only connects a machine. Make one that may do everything on {page}, and give it with --api-key."
        )
        assert "scope" not in said
    with pytest.raises(SystemExit):
        main(["upload", "--help"])
    assert "a key that may do everything" in " ".join(capsys.readouterr().out.split())


def test_a_folder_with_a_model_becomes_a_model(
    site: FakeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "tuned"
    (folder / "merged").mkdir(parents=True)
    for name, content in (
        ("model.safetensors", b"w" * 2500),
        ("config.json", b"{}"),
        ("merged/config.json", b"{ }"),
        ("old.bin", b"x"),
    ):
        (folder / name).write_bytes(content)
    server = ("--server-url", site.url, "--api-key", "ty_full")
    assert main(["upload", str(folder), *server, "--description", "Sums.", "--base-model", "org/base"]) == 0
    said, progress = capsys.readouterr()
    assert "Sent 2.5 kB of 2.5 kB of model.safetensors." in progress
    assert "Model 9: tuned, version 1" in said and "/models/9" in said and "left out: old.bin (can run code" in said
    (order,) = site.models
    assert (order["name"], order["description"], order["base_model"]) == ("tuned", "Sums.", "org/base")
    brought = {file["name"]: bytes(site.uploads[file["upload"]]["data"]) for file in order["files"]}
    assert brought == {"model.safetensors": b"w" * 2500, "config.json": b"{}", "merged/config.json": b"{ }"}
    assert len(order["key"]) == 64


def test_a_model_whose_answer_was_lost_is_asked_for_again_with_the_same_key(
    site: FakeServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tiny.safetensors").write_bytes(b"w")
    site.trouble = ["", "", "", "", "503"]  # create, offset, piece, complete, and then the model
    assert main(["upload", str(tmp_path / "tiny.safetensors"), "--server-url", site.url, "--api-key", "ty_full"]) == 0
    assert [order["name"] for order in site.models] == ["tiny"]
    assert site.requests.count("POST /api/models") == 2


def test_the_configuration_says_where_it_is_saved(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "--home", "/data/agent"]) == 0
    assert "Save it as /data/agent/.trainyard/agent.toml" in capsys.readouterr().out
    assert main(["config"]) == 0
    assert "Save it as ~/.trainyard/agent.toml" in capsys.readouterr().out


def test_the_configuration_that_is_printed_can_be_used(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["config"]) == 0
    (tmp_path / ".trainyard").mkdir()
    (tmp_path / ".trainyard" / "agent.toml").write_text(capsys.readouterr().out)
    assert "--server-url" in refused(capsys, "--api-key", "ty_x")


def test_a_mistake_in_the_configuration_is_refused_with_its_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "desk.toml").write_text('name = "desk"\nroots = ["/data"]\n')
    for verb in ("connect", "doctor", "status", "stop", "upload"):
        typed = [verb, *(["x"] if verb == "upload" else []), "--config", str(tmp_path / "desk.toml")]
        assert "desk.toml, line 2: there is no setting 'roots'" in refused(capsys, *typed)


def test_options_that_cannot_be_are_refused_before_anything_is_opened(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    server = ("--server-url", "ws://localhost:1", "--api-key", "ty_x")
    assert "--max-jobs must be 1 or more" in refused(capsys, *server, "--max-jobs", "0")
    assert "looks like 20:00-08:00" in refused(capsys, *server, "--hours", "at night")
    assert "is not passed on" in refused(capsys, *server, "--pass-env", "LD_PRELOAD")
    assert not (tmp_path / ".trainyard").exists()


def test_doctor_says_of_each_thing_whether_it_is_fine(site: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--server-url", site.url, "--api-key", KEY]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == [
        "python", "torch", "transformers", "peft", "safetensors", "tokenizers", "gpu", "memory", "disk", "folder",
        "agent", "spool", "roots", "scripts", "hours", "server", "key",
    ]  # fmt: skip
    assert all(line.startswith("ok ") for line in lines)
    assert site.received == []


def test_doctor_has_nothing_to_mend_where_scripts_may_run_and_training_lacks_packages(
    site: FakeServer, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.hardware.missing", lambda: ["torch", "peft"])
    (tmp_path / "experiments").mkdir()
    typed = ["doctor", "--server-url", site.url, "--api-key", KEY, "--root", str(tmp_path / "experiments")]
    assert main([*typed, "--home", str(tmp_path / "home"), "--allow-scripts"]) == 0
    assert "\nnote packages" in capsys.readouterr().out
    assert main([*typed, "--home", str(tmp_path / "home")]) == 1
    assert "\nFIX  packages" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (("--api-key", "ty_wrong"), "refused: make a new one at http://"),
        ((), "none given: add --api-key KEY"),
    ],
)
def test_doctor_says_what_to_do_about_a_key(
    site: FakeServer, capsys: pytest.CaptureFixture[str], typed: tuple[str, ...], said: str
) -> None:
    assert main(["doctor", "--server-url", site.url, *typed]) == 1
    out = capsys.readouterr().out
    line = out.splitlines()[-1]
    assert line.startswith("FIX  key ") and said in line
    assert "ty_wrong" not in out


def test_doctor_says_that_a_server_cannot_be_reached(site: FakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    site.stop()
    assert main(["doctor", "--server-url", site.url]) == 1
    assert "cannot be reached" in capsys.readouterr().out


def test_doctor_names_the_command_that_installs_what_is_missing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "agent.hardware.installed", lambda name: {"torch": None, "transformers": "4.57.1"}.get(name, "9.0")
    )
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert f'{sys.executable} -m pip install "torch==2.13.*" "transformers>=5,<6"' in out
    assert "torch and transformers>=5,<6 (4.57.1 is installed): " in out


def test_running_as_root_is_warned_about(site: FakeServer, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("not root")
    code, _, err = run(tmp_path, "--server-url", site.url, "--api-key", "ty_wrong")
    assert code == 2
    assert "Warning: running as root" in err
    assert "ty_wrong" not in err
