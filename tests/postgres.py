"""Finding a PostgreSQL for the tests, or starting a private one."""

from __future__ import annotations

import getpass
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import psycopg


def loopback_server() -> str | None:
    """The address of a server on 127.0.0.1:5432 that lets us in, if there is one."""
    for user in (getpass.getuser(), "postgres"):
        url = f"postgresql://{user}@127.0.0.1:5432/postgres"
        try:
            psycopg.connect(url, connect_timeout=2).close()
        except psycopg.OperationalError:
            continue
        return url
    return None


@dataclass
class PrivateServer:
    """A server of our own in a temporary folder; `postgres` refuses to run as root, so somebody else runs it then."""

    url: str
    folder: str
    process: subprocess.Popen[bytes]

    @classmethod
    def start(cls) -> PrivateServer | None:
        """Start one, or answer None without an installed `postgres` binary or an unprivileged user to run it."""
        binaries = _binaries()
        user = _unprivileged()
        if binaries is None or user is None:
            return None
        folder = tempfile.mkdtemp(prefix="trainyard-pg-")
        shutil.chown(folder, user)
        data = f"{folder}/data"
        _as(user, [f"{binaries}/initdb", "-D", data, "-U", "postgres", "-A", "trust", "--no-sync"], check=True)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = [f"{binaries}/postgres", "-D", data, "-p", str(port), "-h", "127.0.0.1", "-k", folder, "-F"]
        process = subprocess.Popen(command, user=user if os.getuid() == 0 else None, stderr=subprocess.DEVNULL)
        url = f"postgresql://postgres@127.0.0.1:{port}/postgres"
        for _ in range(100):
            try:
                psycopg.connect(url, connect_timeout=1).close()
                return cls(url, folder, process)
            except psycopg.OperationalError:
                subprocess.run(["sleep", "0.1"], check=True)
        process.kill()
        return None

    def stop(self) -> None:
        """End it and remove its folder."""
        self.process.terminate()
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


def _binaries() -> str | None:
    found = shutil.which("postgres")
    if found:
        return str(Path(found).parent)
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"))
    return str(installed[-1].parent) if installed else None


def _unprivileged() -> str | None:
    if os.getuid() != 0:
        return getpass.getuser()
    for name in ("postgres", "nobody"):
        try:
            pwd.getpwnam(name)
        except KeyError:
            continue
        return name
    return None


def _as(user: str, command: list[str], check: bool) -> None:
    subprocess.run(command, user=user if os.getuid() == 0 else None, check=check, capture_output=True)
