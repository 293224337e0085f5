"""Settings: defaults that work, wrong values that are named, secrets from files."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from services.config import BadSetting, Settings


def settings(folder: Path, **env: str) -> Settings:
    return Settings.from_env({"VAR_DIR": str(folder), **env})


def test_nothing_has_to_be_set(tmp_path: Path) -> None:
    found = settings(tmp_path)
    assert (found.port, found.host, found.public_url) == (5000, "127.0.0.1", "http://localhost:5000")
    assert found.database_url == f"sqlite:///{tmp_path / 'trainyard.db'}" and found.redis_is_embedded
    assert found.socket_url == "ws://localhost:5000"


def test_the_secret_key_is_made_once_and_readable_by_its_owner_only(tmp_path: Path) -> None:
    first, second = settings(tmp_path), settings(tmp_path)
    assert first.secret_key == second.secret_key and len(first.secret_key) == 64
    assert stat.S_IMODE((tmp_path / "secret-key").stat().st_mode) == 0o600


@pytest.mark.parametrize("name, value", [
    ("PORT", "eighty"), ("PORT", "0"), ("PORT", "65536"), ("WORKERS", "-1"), ("MAIL_USE_TLS", "perhaps"), ("LOG_LEVEL", "loud"),
    ("DATABASE_URL", "mysql://x"), ("SERVER_ACCELERATOR", "tpu"), ("SECRET_KEY_FILE", "/no/such/file"),
])  # fmt: skip
def test_a_wrong_value_is_named(tmp_path: Path, name: str, value: str) -> None:
    with pytest.raises(BadSetting, match=name):
        settings(tmp_path, **{name: value})


def test_a_secret_may_come_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "url").write_text("postgres://user:pass@db/yard\n")
    assert (
        settings(tmp_path, DATABASE_URL_FILE=str(tmp_path / "url")).database_url
        == "postgresql+psycopg://user:pass@db/yard"
    )


def test_a_deep_folder_does_not_make_the_redis_socket_too_long(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    assert len(settings(deep).redis_url.removeprefix("unix://")) <= 100
    assert settings(deep).redis_url != settings(deep / "other").redis_url


def test_https_makes_secure_cookies_and_sockets(tmp_path: Path) -> None:
    found = settings(tmp_path, PUBLIC_URL="https://yard.example/")
    assert found.is_https and found.socket_url == "wss://yard.example"
