"""Service files: what they start is what was typed, the key is not in them, and jobs outlive a stop."""

from __future__ import annotations

import plistlib
import shlex
from pathlib import Path

import pytest

from agent import service_unit
from agent.__main__ import main
from agent.arguments import parser
from agent.config import settled

TYPED = ["--server-url", "wss://example.com", "--name", 'the "desk" 100%', "--root", "/data/my models", "--max-jobs", "2",
         "--hours", "20:00-08:00", "--allow-scripts", "--pass-env", "HF_TOKEN", "--home", "/srv/$agent"]  # fmt: skip


def test_the_options_of_the_service_are_those_that_were_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    options = settled(parser().parse_args(["service", *TYPED, "--api-key", "ty_secret"]), {})
    again = settled(parser().parse_args(["connect", *service_unit.arguments(options)]), {})
    for name in ("server_url", "name", "root", "max_jobs", "hours", "allow_scripts", "pass_env", "home", "insecure"):
        assert getattr(again, name) == getattr(options, name), name
    assert again.api_key is None


def test_a_switch_that_was_typed_off_stays_off_whatever_the_file_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    file = tmp_path / ".trainyard" / "agent.toml"
    file.parent.mkdir()
    file.write_text("allow_scripts = true\ninsecure = true\n")
    off = settled(parser().parse_args(["service", *TYPED[:2], "--no-allow-scripts", "--no-insecure"]), {})
    again = settled(parser().parse_args(["connect", *service_unit.arguments(off)]), {})
    assert (again.allow_scripts, again.insecure) == (False, False)
    usual = settled(parser().parse_args(["service", *TYPED[:2]]), {})
    assert not any(word.startswith("--no-") for word in service_unit.arguments(usual))


def test_what_the_file_says_is_read_again_at_every_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    file = tmp_path / ".trainyard" / "agent.toml"
    file.parent.mkdir()
    file.write_text('name = "desk"\nroot = ["/data", "/models"]\nmax_jobs = 3\nallow_scripts = true\n')
    file.write_text(f'server_url = "ws://localhost:5000"\n{file.read_text()}')
    unit = service_unit.arguments(settled(parser().parse_args(["service", "--hours", "20:00-08:00"]), {}))
    file.write_text('server_url = "wss://example.com"\nroot = ["/data"]\nmax_jobs = 2\n')
    again = settled(parser().parse_args(["connect", *unit]), {})
    assert (again.root, again.max_jobs, again.allow_scripts, again.name) == (["/data"], 2, False, None)
    assert (again.hours, again.server_url) == (["20:00-08:00"], "wss://example.com")


def test_an_address_of_the_environment_is_in_the_service_which_has_no_such_environment(tmp_path: Path) -> None:
    given = {"TRAINYARD_SERVER_URL": "wss://example.com"}
    options = settled(parser().parse_args(["service", "--home", str(tmp_path)]), given)
    again = settled(parser().parse_args(["connect", *service_unit.arguments(options)]), {})
    assert (again.server_url, again.home) == ("wss://example.com", tmp_path)


def lines(text: str, key: str) -> list[str]:
    return [line.partition("=")[2] for line in text.splitlines() if line.startswith(f"{key}=")]


def test_a_unit_quotes_what_systemd_would_expand() -> None:
    command = ["/usr/bin/python3", "/opt/my agent/train_agent.py", "connect", "--name", 'the "desk" 100% $HOME \\']
    unit = service_unit.systemd(command, {"PYTHONPATH": "/opt/my agent"}, Path("/home/a"))
    (start,) = lines(unit, "ExecStart")
    assert [word.replace("%%", "%").replace("$$", "$") for word in shlex.split(start)] == command
    assert lines(unit, "Environment") == ['"PYTHONPATH=/opt/my agent"']
    assert lines(unit, "KillMode") == ["process"] and lines(unit, "RestartPreventExitStatus") == ["2"]


def test_a_line_break_in_a_name_does_not_begin_another_setting() -> None:
    unit = service_unit.systemd(["/usr/bin/python3", "--name", "a\nExecStartPre=/bin/evil"], {}, Path("/home/a"))
    assert lines(unit, "ExecStartPre") == []


def test_a_list_for_launchd_is_one(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert main(["service", "--format", "launchd", *TYPED]) == 0
    found = plistlib.loads(capsys.readouterr().out.encode())
    assert found["ProgramArguments"][-2:] == ["HF_TOKEN", "--allow-scripts"] and found["AbandonProcessGroup"] is True
    assert 'the "desk" 100%' in found["ProgramArguments"]


def test_the_key_is_never_printed_and_its_place_is_said(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    server = ["--server-url", "wss://example.com"]
    assert main(["service", "--format", "systemd", *server, "--api-key", "ty_secret"]) == 0
    shown = capsys.readouterr()
    assert "ty_secret" not in shown.out + shown.err
    assert f"{tmp_path}/.trainyard/agent.toml" in shown.err and "chmod 600" in shown.err
    (tmp_path / ".trainyard").mkdir()
    (tmp_path / ".trainyard" / "agent.toml").touch(mode=0o600)
    (tmp_path / ".trainyard" / "agent.toml").write_text('api_key = "ty_secret"')
    assert main(["service", "--format", "systemd", *server]) == 0
    assert "key" not in capsys.readouterr().err


def test_options_that_cannot_be_are_refused_before_anything_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["service", "--server-url", "wss://example.com", "--hours", "night"]) == 2
    assert capsys.readouterr().out == ""


def test_the_key_has_one_place_and_the_file_of_variables_is_said_to_be_for_others(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = ["service", "--server-url", "wss://example.com", "--home", str(tmp_path), "--format", "systemd"]
    assert main(typed) == 0
    unit, advice = capsys.readouterr()
    assert f"{tmp_path}/.trainyard/agent.toml" in advice and "agent.env" not in advice
    comment, setting = unit[: unit.index("UMask")].splitlines()[-2:]
    assert setting == f"EnvironmentFile=-{tmp_path}/.trainyard/agent.env"
    assert "--pass-env" in comment and "The key stands in agent.toml." in comment
