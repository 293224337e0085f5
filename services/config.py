"""The only reader of the server's environment. A wrong value stops the start with a sentence.

Each secret may also be given as a file, by the same name with `_FILE` appended. `.env.example` lists the same settings.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ACCELERATORS = ("cpu", "cuda")  # classes of what the server trains on

SECRETS = (
    "SECRET_KEY", "DATABASE_URL", "REDIS_URL", "MAIL_PASSWORD", "STRIPE_SECRET_KEY", "STRIPE_PUBLISHABLE_KEY",
    "STRIPE_WEBHOOK_SECRET",
)  # fmt: skip
UNIX_SOCKET_LIMIT = 100  # sockaddr_un holds 108 bytes on Linux, 104 on macOS


class BadSetting(Exception):
    """A setting that cannot be used; `str()` names it and says what is expected."""


@dataclass(frozen=True)
class Settings:
    """Everything the server is told from outside."""

    port: int
    host: str
    public_url: str
    var_dir: Path
    secret_key: str
    database_url: str
    redis_url: str
    redis_is_embedded: bool
    workers: int
    accelerator: str
    base_models_dir: Path | None
    hub_endpoint: str
    delivery_bytes: int
    sandbox_lane: int
    sandbox_limits: dict[str, int]
    mail_server: str
    mail_port: int
    mail_username: str
    mail_password: str
    mail_use_tls: bool
    mail_sender: str
    payments: str
    stripe_secret_key: str
    stripe_publishable_key: str
    stripe_webhook_secret: str
    stripe_api_base: str
    support_email: str
    trust_proxy: bool
    log_level: str

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Settings:
        """Read and check the environment. Raises BadSetting."""
        env = _with_files(dict(os.environ if environ is None else environ))
        var_dir = Path(env.get("VAR_DIR") or "var").expanduser().resolve()
        port = _whole(env, "PORT", 5000, 1, 65535)
        redis_url = env.get("REDIS_URL", "")
        base_models = env.get("BASE_MODELS_DIR", "")
        payments = _one_of(env, "PAYMENTS", "simulated", ("simulated", "stripe", "off"))
        if payments == "stripe" and not env.get("STRIPE_SECRET_KEY"):
            raise BadSetting("PAYMENTS is stripe, so STRIPE_SECRET_KEY is needed: Stripe's dashboard shows it.")
        return cls(
            port=port,
            host=env.get("HOST") or "127.0.0.1",
            public_url=(env.get("PUBLIC_URL") or f"http://localhost:{port}").rstrip("/"),
            var_dir=var_dir,
            secret_key=env.get("SECRET_KEY") or kept_secret(var_dir / "secret-key"),
            database_url=_database(env.get("DATABASE_URL") or f"sqlite:///{var_dir / 'trainyard.db'}"),
            redis_url=redis_url or f"unix://{_embedded_redis_socket(var_dir)}",
            redis_is_embedded=not redis_url,
            workers=_whole(env, "WORKERS", 1, 0, 64),
            accelerator=_one_of(env, "SERVER_ACCELERATOR", "cpu", ACCELERATORS),
            base_models_dir=Path(base_models).expanduser().resolve() if base_models else None,
            hub_endpoint=(env.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/"),
            delivery_bytes=(1 << 20) * _whole(env, "DELIVERY_MB", 20_480, 1, 16_777_216),
            sandbox_lane=_whole(env, "SANDBOX_LANE", 1, 0, 2),
            sandbox_limits=_sandbox_limits(env),
            mail_server=env.get("MAIL_SERVER", ""),
            mail_port=_whole(env, "MAIL_PORT", 587, 1, 65535),
            mail_username=env.get("MAIL_USERNAME", ""),
            mail_password=env.get("MAIL_PASSWORD", ""),
            mail_use_tls=_flag(env, "MAIL_USE_TLS", True),
            mail_sender=env.get("MAIL_SENDER") or "trainyard@localhost",
            payments=payments,
            stripe_secret_key=env.get("STRIPE_SECRET_KEY", "") if payments == "stripe" else "",
            stripe_publishable_key=env.get("STRIPE_PUBLISHABLE_KEY", ""),
            stripe_webhook_secret=env.get("STRIPE_WEBHOOK_SECRET", ""),
            stripe_api_base=env.get("STRIPE_API_BASE", "").rstrip("/"),
            support_email=env.get("SUPPORT_EMAIL", ""),
            trust_proxy=_flag(env, "TRUST_PROXY", False),
            log_level=_one_of(env, "LOG_LEVEL", "info", ("debug", "info", "warning", "error")),
        )

    @property
    def storage_dir(self) -> Path:
        return self.var_dir / "storage"

    @property
    def jobs_dir(self) -> Path:
        return self.var_dir / "jobs"

    @property
    def log_dir(self) -> Path:
        return self.var_dir / "log"

    @property
    def outbox_dir(self) -> Path:
        return self.var_dir / "outbox"

    @property
    def is_https(self) -> bool:
        return self.public_url.startswith("https://")

    @property
    def socket_url(self) -> str:
        """Where agents connect, as they are told it."""
        return "ws" + self.public_url.removeprefix("http")


def _with_files(env: dict[str, str]) -> dict[str, str]:
    for name in SECRETS:
        path = env.get(f"{name}_FILE")
        if path:
            try:
                env[name] = Path(path).read_text().strip()
            except OSError as error:
                raise BadSetting(f"{name}_FILE names {path}, which cannot be read: {error.strerror}.") from None
    return env


def _whole(env: Mapping[str, str], name: str, default: int, least: int, most: int) -> int:
    given = env.get(name) or str(default)
    if not given.isascii() or not given.isdigit() or not least <= int(given) <= most:
        raise BadSetting(f"{name} is {given!r}; it must be a whole number from {least} to {most}.")
    return int(given)


def _sandbox_limits(env: Mapping[str, str]) -> dict[str, int]:
    """What a member's script may use on this server, by the names of `agent.sandbox.Limits`: bytes, seconds, counts."""
    mega = 1 << 20
    return {
        "memory_bytes": mega * _whole(env, "SANDBOX_MEMORY_MB", 8_192, 256, 16_777_216),
        "processes": _whole(env, "SANDBOX_PROCESSES", 512, 8, 32_768),
        "wall_seconds": 3_600 * _whole(env, "SANDBOX_HOURS", 6, 1, 8_760),
        "work_bytes": mega * _whole(env, "SANDBOX_DISK_MB", 20_480, 64, 16_777_216),
        "work_files": _whole(env, "SANDBOX_FILES", 100_000, 1_000, 10_000_000),
        "file_bytes": mega * _whole(env, "SANDBOX_FILE_MB", 20_480, 64, 16_777_216),
        "open_files": _whole(env, "SANDBOX_OPEN_FILES", 1_024, 64, 65_536),
        "tmp_bytes": mega * _whole(env, "SANDBOX_TMP_MB", 1_024, 16, 1_048_576),
        "shm_bytes": mega * _whole(env, "SANDBOX_SHM_MB", 1_024, 16, 1_048_576),
        "output_bytes": mega * _whole(env, "SANDBOX_OUTPUT_MB", 1_024, 1, 1_048_576),
    }


def _flag(env: Mapping[str, str], name: str, default: bool) -> bool:
    given = (env.get(name) or ("yes" if default else "no")).lower()
    if given not in ("yes", "no", "true", "false", "1", "0"):
        raise BadSetting(f"{name} is {given!r}; it must be yes or no.")
    return given in ("yes", "true", "1")


def _one_of(env: Mapping[str, str], name: str, default: str, choices: tuple[str, ...]) -> str:
    given = (env.get(name) or default).lower()
    if given not in choices:
        raise BadSetting(f"{name} is {given!r}; it must be one of {', '.join(choices)}.")
    return given


def _database(url: str) -> str:
    """Name the driver this project installs."""
    for short in ("postgres://", "postgresql://"):
        if url.startswith(short):
            return "postgresql+psycopg://" + url.removeprefix(short)
    if not url.startswith(("sqlite:///", "postgresql+psycopg://")):
        raise BadSetting("DATABASE_URL must begin with sqlite:/// or postgresql://.")
    return url


def _embedded_redis_socket(var_dir: Path) -> Path:
    socket = var_dir / "redis" / "redis.sock"
    if len(str(socket)) <= UNIX_SOCKET_LIMIT:
        return socket
    name = hashlib.sha256(str(var_dir).encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"trainyard-{name}.sock"


def kept_secret(path: Path, prefix: str = "") -> str:
    """A secret made at the first start and kept readable by the owner only; processes that start at once get the same."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        handle, draft = tempfile.mkstemp(dir=path.parent)  # mode 600
        with os.fdopen(handle, "w") as file:
            file.write(prefix + secrets.token_hex(32))
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)  # appears whole, and once
        Path(draft).unlink()
    return path.read_text().strip()
