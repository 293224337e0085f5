"""What doctor concludes from what it sees: clocks, CUDA versions, folders, scripts, variables, proxies, spools."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

import pytest

from agent import hardware
from agent.doctor import choices, machine, place, server
from agent.spool import Spool
from agent.workspace import Workspace

NOON = 1_795_262_400.0  # Saturday, 21 November 2026, 12:00:00 UTC


@pytest.mark.parametrize(
    ("seconds", "fine", "said"),
    [(0, True, "0 s from"), (119, True, "119 s"), (-119, True, "119 s"), (3600, False, "60 min ahead of"), (-600, False, "10 min behind")],
)  # fmt: skip
def test_clocks_that_differ_are_named(seconds: float, fine: bool, said: str) -> None:
    ((found, name, words),) = server.clock("Sat, 21 Nov 2026 12:00:00 GMT", NOON + seconds)
    assert (found, name) == (fine, "clock") and said in words


@pytest.mark.parametrize("date", [None, "", "yesterday"])
def test_a_server_that_tells_no_time_is_not_compared(date: str | None) -> None:
    assert server.clock(date, NOON) == []


@pytest.mark.parametrize(
    ("built", "driver", "said"),
    [
        ((12, 8), (12, 4), None), ((12, 8), (13, 0), None), ((11, 8), (12, 4), None), (None, (12, 4), None), ((13, 0), None, None),
        ((13, 0), (12, 8), "update the NVIDIA driver"), ((), (12, 8), "built without CUDA"),
    ],
)  # fmt: skip
def test_a_torch_that_cannot_use_the_driver_is_named(built: Any, driver: Any, said: str | None) -> None:
    fault = machine.cuda_fault(built, driver)
    assert fault is None if said is None else said in str(fault)


@pytest.mark.parametrize(
    ("version", "built"), [("2.13.0+cpu", ()), ("2.13.0+cu130", (13, 0)), ("2.11.0+cu128", (12, 8))]
)
def test_what_torch_was_built_for_stands_in_its_version(
    version: str, built: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hardware, "installed", lambda _package: version)
    assert machine.torch_cuda() == built


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine whose nvidia-smi prints what the real one prints in its heading."""
    program = tmp_path / "bin" / "nvidia-smi"
    program.parent.mkdir()
    heading = "| NVIDIA-SMI 570.86.15      Driver Version: 570.86.15      CUDA Version: 12.8     |"
    program.write_text(f'#!/bin/sh\ncase "$1" in --query*) echo "NVIDIA H200, 143771";; *) echo "{heading}";; esac\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    return program


def test_the_driver_says_which_cuda_it_serves(smi: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert machine.driver_cuda() == (12, 8)
    monkeypatch.setattr(hardware, "installed", lambda _package: "2.13.0+cu130")
    found = {name: (fine, words) for fine, name, words in machine.findings(tmp_path)}
    assert found["gpu"][0] and "NVIDIA H200" in found["gpu"][1]
    assert not found["cuda"][0] and "serves CUDA 12.8 at most" in found["cuda"][1]


@pytest.mark.parametrize(("allow_scripts", "fine"), [(False, False), (True, None)])
def test_missing_packages_are_one_line_with_one_command_and_a_note_where_scripts_may_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, allow_scripts: bool, fine: bool | None
) -> None:
    monkeypatch.setattr(hardware, "missing", lambda: ["torch>=2.10,<3 (2.4.0 is installed)", "transformers", "peft"])
    lines = machine.findings(tmp_path, allow_scripts)
    ((_, name, words),) = [line for line in lines if line[0] is not True]
    assert (name, lines[3][0]) == ("packages", fine) and words.count("pip install") == 1
    assert "torch>=2.10,<3 (2.4.0 is installed), transformers and peft" in words
    assert ("scripts run" in words) == allow_scripts
    assert {name for _, name, _ in lines} >= {"safetensors", "tokenizers"}


def options(tmp_path: Path, **given: Any) -> argparse.Namespace:
    return argparse.Namespace(
        **{"root": [], "allow_scripts": False, "pass_env": [], "hours": [], "home": tmp_path, **given}
    )


def found(tmp_path: Path, **given: Any) -> dict[str, tuple[bool, str]]:
    return {name: (fine, words) for fine, name, words in choices.findings(options(tmp_path, **given))}


def test_folders_scripts_and_hours_are_explained(tmp_path: Path) -> None:
    plain = found(tmp_path)
    assert all(fine for fine, _ in plain.values()) and set(plain) == {"roots", "scripts", "hours"}
    assert "--allow-scripts allows them" in plain["scripts"][1] and "at any time" in plain["hours"][1]
    (tmp_path / "models").mkdir()
    asked = found(tmp_path, root=[str(tmp_path / "models")], allow_scripts=True, hours=["00:00-24:00"])
    assert asked["roots"] == (True, str(tmp_path / "models")) and asked["scripts"] == (
        True,
        "allowed, inside the roots",
    )
    assert asked["hours"] == (True, "00:00-24:00: new jobs are taken now")


def test_options_that_would_be_refused_are_found_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    wrong = found(tmp_path, root=[str(tmp_path / "absent")], pass_env=["HF_TOKEN"], hours=["night"])
    assert not any(wrong[name][0] for name in ("roots", "variables", "hours"))
    assert (
        "mkdir -p" in wrong["roots"][1] and "export it" in wrong["variables"][1] and "20:00-08:00" in wrong["hours"][1]
    )
    assert not found(tmp_path, allow_scripts=True)["scripts"][0]


def test_what_the_spools_hold_is_told(tmp_path: Path) -> None:
    assert {name: fine for fine, name, _ in place.findings(tmp_path)} == {"folder": True, "agent": True, "spool": True}
    workspace = Workspace(tmp_path, "ws://localhost:1")
    workspace.identity()
    attempt = workspace.attempt(7, 1)
    attempt.path.mkdir(parents=True)
    (attempt.path / "task.json").write_text("{}")
    spool = Spool(attempt.spool)
    spool.close()
    words = {name: words for _, name, words in place.findings(tmp_path)}
    assert "of 1 job kept until the server has stored it" in words["spool"]


def test_a_secret_that_others_may_read_is_found(tmp_path: Path) -> None:
    Workspace(tmp_path, "ws://localhost:1").identity()
    (tmp_path / ".trainyard" / "agent.json").chmod(0o644)
    assert (False, "folder") in [(fine, name) for fine, name, _ in place.findings(tmp_path)]


def test_a_proxy_on_the_way_is_named_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY", "https_proxy", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("https_proxy", "http://user:secret@127.0.0.1:9")
    lines = server.findings("wss://yard.example", None)
    assert lines[0][:2] == (True, "proxy") and "127.0.0.1:9" in lines[0][2] and "secret" not in str(lines)
    assert lines[1][:2] == (False, "server")
    monkeypatch.setenv("no_proxy", "yard.example")
    assert [name for _, name, _ in server.findings("wss://yard.example:1", None)] == ["server"]


def test_the_key_is_asked_last_and_the_way_to_the_server_timed(site: Any) -> None:
    names = [name for _, name, _ in server.findings(site.url, None)]
    assert names[0] == "server" and names[-1] == "key"
    assert "answers in" in server.findings(site.url, None)[0][2]
