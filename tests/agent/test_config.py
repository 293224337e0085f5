"""What holds: the command line before the environment, that before the file; and files that cannot be used."""

from __future__ import annotations

import argparse
import tomllib
from pathlib import Path
from typing import Any

import pytest

from agent import config, config_file
from agent.arguments import Usage, parser
from agent.config_file import KEYS, BadConfig, read, template


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def write(path: Path, text: str, mode: int = 0o600) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)
    return path


def settled(*typed: str, **environment: str) -> argparse.Namespace:
    return config.settled(parser().parse_args(["connect", *typed]), environment)


def test_the_command_line_wins_over_the_environment_and_that_over_the_file(home: Path) -> None:
    write(home / ".trainyard" / "agent.toml", 'server_url = "wss://file"\napi_key = "ty_file"\nname = "file"\n')
    assert (settled().server_url, settled().api_key, settled().name) == ("wss://file", "ty_file", "file")
    environment = {"TRAINYARD_SERVER_URL": "wss://environment", "TRAINYARD_API_KEY": "ty_environment"}
    found = settled("--api-key", "ty_typed", **environment)
    assert (found.server_url, found.api_key, found.name) == ("wss://environment", "ty_typed", "file")


def test_the_address_inside_the_file_is_the_last_to_be_asked(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "carried_address", lambda: "wss://carried")
    assert settled().server_url == "wss://carried"
    assert settled(TRAINYARD_SERVER_URL="wss://environment").server_url == "wss://environment"
    write(home / ".trainyard" / "agent.toml", 'server_url = "wss://file"')
    assert settled().server_url == "wss://file"


def test_every_key_of_the_file_reaches_its_option(home: Path) -> None:
    path = write(
        home / "desk.toml",
        'server_url = "wss://x"\nname = "desk"\nroot = ["~/a", "/b"]\nmax_jobs = 3\nhours = ["20:00-08:00"]\n'
        f'allow_scripts = true\npass_env = ["HF_TOKEN"]\nhome = "{home}/other"\ninsecure = true\napi_key = "ty_x"\n',
    )
    found = settled("--config", str(path))
    assert {name: getattr(found, name) for name in KEYS} == {
        "server_url": "wss://x", "name": "desk", "root": ["~/a", "/b"], "max_jobs": 3, "hours": ["20:00-08:00"],
        "allow_scripts": True, "pass_env": ["HF_TOKEN"], "home": home / "other", "insecure": True, "api_key": "ty_x",
    }  # fmt: skip


def test_what_is_typed_replaces_lists_and_switches_of_the_file(home: Path) -> None:
    write(home / ".trainyard" / "agent.toml", 'root = ["/a"]\nallow_scripts = true\nmax_jobs = 3\n')
    found = settled("--root", "/b", "--root", "/c", "--no-allow-scripts", "--jobs", "2")
    assert (found.root, found.allow_scripts, found.max_jobs) == (["/b", "/c"], False, 2)


def test_the_name_of_the_machine_is_no_name_of_what_it_uploads(home: Path) -> None:
    write(home / ".trainyard" / "agent.toml", 'name = "desk"\n')
    assert settled().name == "desk"
    assert config.settled(parser().parse_args(["upload", "rows.jsonl"]), {}).name is None


def test_without_anything_the_defaults_hold(home: Path) -> None:
    found = settled()
    assert (found.root, found.max_jobs, found.hours, found.allow_scripts, found.pass_env) == ([], 1, [], False, [])
    assert found.home == home.resolve() and found.insecure is False
    assert config.name_of(found)


def test_a_file_beside_another_home_is_found_there(home: Path) -> None:
    write(home / "big" / ".trainyard" / "agent.toml", 'name = "big"')
    assert settled("--home", str(home / "big")).name == "big"
    assert settled().name is None


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('name = "a"\n\nrooot = ["x"]\n', "line 3: there is no setting 'rooot'"),
        ('[agent]\nname = "a"\n', "line 1: there is no setting 'agent'"),
        ('name = "a"\n[server.url]\n', "line 2: there is no setting 'server'"),
        ('name = "a"\nmax_jobs = "3"\n', "line 2: max_jobs must be a whole number"),
        ("max_jobs = true\n", "line 1: max_jobs must be a whole number"),
        ('root = "~/models"\n', 'line 1: root must be a list of texts, such as ["~/models", "~/data"]'),
        ("pass_env = [1]\n", "pass_env must be a list of texts"),
        ('allow_scripts = "yes"\n', "allow_scripts must be true or false"),
        ("name = 7\n", "name must be a text in quotes"),
        ("name = \n", "is not TOML"),
        ('name = "a"\nname = "b"\n', "is not TOML"),
        ("a = " + "[" * 5000, "is not TOML"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_with_the_line(home: Path, text: str, said: str) -> None:
    with pytest.raises(BadConfig) as refusal:
        read(write(home / "agent.toml", text))
    assert said in str(refusal.value) and str(home / "agent.toml") in str(refusal.value)


def test_bytes_that_are_no_text_and_files_that_are_not_there_are_refused(home: Path) -> None:
    (home / "agent.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadConfig, match="not UTF-8"):
        read(home / "agent.toml")
    with pytest.raises(Usage, match="No such file"):
        settled("--config", str(home / "absent.toml"))


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666])
def test_a_key_in_a_file_that_others_may_read_is_refused(home: Path, mode: int) -> None:
    path = write(home / "agent.toml", 'api_key = "ty_secret"\n', mode)
    with pytest.raises(BadConfig, match="chmod 600") as refusal:
        read(path)
    assert "ty_secret" not in str(refusal.value)
    assert read(write(path, 'name = "desk"\n', mode)) == {"name": "desk"}


def test_the_printed_file_is_whole_once_the_comment_signs_are_gone(home: Path) -> None:
    text = template()
    assert tomllib.loads(text) == {}
    live = "\n".join(
        line.removeprefix("# ") for line in text.splitlines() if line.removeprefix("# ").split(" ")[0] in KEYS
    )
    assert set(read(write(home / "agent.toml", live))) == set(KEYS)


@pytest.mark.parametrize("name", ["HF_TOKEN", "WANDB_API_KEY", "_x", "CUDA_VISIBLE_DEVICES", "PYTHONHASHSEED"])
def test_variables_that_may_be_passed(name: str) -> None:
    assert config.passed_names(argparse.Namespace(pass_env=[name, name])) == (name,)


@pytest.mark.parametrize(
    "name",
    ["", "A=B", "a b", "1A", "ü", "LD_PRELOAD", "ld_library_path", "DYLD_INSERT_LIBRARIES", "PYTHONSTARTUP", "PYTHONPATH",
     "TRAINYARD_API_KEY", "BASH_ENV"],
)  # fmt: skip
def test_variables_that_are_never_passed(name: str) -> None:
    with pytest.raises(Usage, match="--pass-env"):
        config.passed_names(argparse.Namespace(pass_env=[name]))


def test_less_than_one_job_is_refused() -> None:
    with pytest.raises(Usage, match="--max-jobs must be 1 or more"):
        config.max_jobs_of(settled("--max-jobs", "0"))


def test_hours_that_are_none_are_refused_as_usage() -> None:
    with pytest.raises(Usage, match="looks like 20:00-08:00"):
        config.hours_of(settled("--hours", "night"))


def test_every_key_is_an_option_of_connect() -> None:
    known: dict[str, Any] = vars(parser().parse_args(["connect"]))
    assert set(config_file.KEYS) <= set(known)
