"""Workers report themselves and what their sandbox keeps; scripts run on the server only where that is enough."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from models.base import db, now, transaction
from models.workers import Worker
from services import accounts, workers
from services.config import BadSetting, Settings
from services.errors import Unavailable
from services.gateways import gateways
from tests.conftest import PASSWORD

ROOT = Path(__file__).parent.parent.parent


def told(lane: int | None, *todo: str) -> dict[str, Any]:
    walls = [
        {
            "name": "network",
            "holds": lane is not None,
            "how": "network namespace",
            "detail": "Tried from inside, and refused.",
        }
    ]
    return {
        "lane": lane,
        "lane_name": f"lane {lane}",
        "walls": walls,
        "todo": list(todo),
        "facts": {"kernel": "6.1", "machine": "x86_64"},
    }


def report(name: str, lane: int | None, *todo: str) -> None:
    workers.report(name, "host", 17, "cpu", told(lane, *todo))


def age(name: str, **by: float) -> None:
    with transaction():
        worker = db.session.get(Worker, name)
        assert worker is not None
        worker.seen_at = now() - timedelta(**by)


def ask_for(monkeypatch: pytest.MonkeyPatch, app: Flask, lane: int) -> None:
    doors = gateways()
    monkeypatch.setitem(app.extensions, "gateways", replace(doors, settings=replace(doors.settings, sandbox_lane=lane)))


class TestScripts:
    def test_they_run_when_one_worker_that_is_there_has_the_lane(self, app: Flask) -> None:
        report("one", None)
        report("two", 1)
        assert workers.script_lane() == 1
        workers.refuse_scripts()

    def test_they_are_refused_without_any_worker(self, app: Flask) -> None:
        assert workers.script_lane() is None
        with pytest.raises(Unavailable, match="No worker of this server is there") as refused:
            workers.refuse_scripts()
        assert refused.value.code == workers.NO_SANDBOX

    def test_they_are_refused_below_the_policy_with_what_to_install(
        self, app: Flask, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        report("one", 0, "Install it: apt install bubblewrap")
        with pytest.raises(Unavailable, match="lane 0, and SANDBOX_LANE asks for 1.*apt install bubblewrap"):
            workers.refuse_scripts()
        ask_for(monkeypatch, app, 0)
        workers.refuse_scripts()
        ask_for(monkeypatch, app, 2)
        report("one", 1)
        with pytest.raises(Unavailable, match="lane 1, and SANDBOX_LANE asks for 2"):
            workers.refuse_scripts()

    def test_a_worker_without_any_lane_is_never_enough(self, app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
        ask_for(monkeypatch, app, 0)
        report("one", None)
        with pytest.raises(Unavailable, match="lane none"):
            workers.refuse_scripts()

    def test_a_worker_that_went_away_counts_no_more(self, app: Flask) -> None:
        report("one", 2)
        age("one", minutes=3)
        assert workers.script_lane() is None
        assert [workers.is_present(worker) for worker in workers.list_all()] == [False]
        report("one", 1)
        assert workers.script_lane() == 1


def test_reports_renew_one_row_and_old_workers_are_forgotten(app: Flask) -> None:
    report("old", 2)
    age("old", hours=25)
    report("one", None)
    report("one", 2)
    assert [(worker.name, worker.lane, worker.pid) for worker in workers.list_all()] == [("one", 2, 17)]
    assert db.session.get(Worker, "old") is None


def test_settings_are_the_limits_of_a_box() -> None:
    from agent.sandbox import Limits

    limits = Limits.from_json(Settings.from_env({"VAR_DIR": "/tmp/none", "SECRET_KEY": "x"}).sandbox_limits)
    assert limits == Limits(processes=512)
    given = {"VAR_DIR": "/tmp/none", "SECRET_KEY": "x", "SANDBOX_MEMORY_MB": "512", "SANDBOX_HOURS": "2"}
    limits = Limits.from_json(Settings.from_env(given).sandbox_limits)
    assert (limits.memory_bytes, limits.wall_seconds) == (512 << 20, 7_200)
    with pytest.raises(BadSetting, match="SANDBOX_LANE is '3'; it must be a whole number from 0 to 2"):
        Settings.from_env({**given, "SANDBOX_LANE": "3"})


def test_the_page_shows_every_wall_to_admins_alone(sqlite_app: Flask, client: FlaskClient) -> None:
    report("one", 1, "Memory is only watched: give `Delegate=yes`.")
    report("two", None, "There is no bwrap on this machine.")
    age("two", minutes=10)
    assert client.get("/api/admin/workers").status_code == 401
    accounts.sign_up("olga@example.com", "olga", PASSWORD, "admin")
    client.post("/login", json={"email": "olga@example.com", "password": PASSWORD})
    found = client.get("/api/admin/workers").get_json()
    assert (found["script_lane"], found["least_lane"]) == (1, 1)
    assert [(one["name"], one["is_present"], one["lane"]) for one in found["workers"]] == [
        ("one", True, 1),
        ("two", False, None),
    ]
    page = client.get("/admin/workers", headers={"Accept": "text/html"}).get_data(as_text=True)
    assert "Members&#39; scripts run here" in page or "Members' scripts run here" in page
    assert "<code>Delegate=yes</code>" in page and "Away" in page and "network namespace" in page
    assert "Connected</span>" in page and "There</span>" not in page
    assert '<th scope="col">What happened</th>' in page and "When it was tried" not in page
    assert found["promised"] == {"plan": "Enterprise", "server_jobs": 10}
    assert "promises 10 jobs at once on the server; 1 worker is there" in page


def test_a_worker_reports_itself_without_holding_anything_open(sqlite_app: Flask, sqlite_yard: Any) -> None:
    """The real class in a process of its own: its copy writes the row, and the process keeps no connection and no thread."""
    code = (
        "import os, threading, time, worker\n"
        "one = worker.Presence('cpu'); one.renew(); copy = one._copy; one.renew(); assert one._copy == copy, 'two at once'\n"
        "os.waitid(os.P_PID, copy, os.WEXITED | os.WNOWAIT); one.renew()\n"
        "opened = [os.readlink(f'/proc/self/fd/{name}') for name in os.listdir('/proc/self/fd') if os.path.exists(f'/proc/self/fd/{name}')]\n"
        "assert not any('.db' in name or 'socket' in name for name in opened), opened\n"
        "assert threading.active_count() == 1 and one._copy == 0\n"
        "one._next = 0; horse = os.fork()\n"
        "if horse == 0: one.renew(); os._exit(int(one._copy != 0))\n"
        "assert os.waitpid(horse, 0)[1] == 0, 'a horse reported'\n"
        "print(os.getpid())\n"
    )
    settings = gateways().settings
    env = {
        **os.environ,
        "VAR_DIR": str(settings.var_dir),
        "DATABASE_URL": settings.database_url,
        "REDIS_URL": settings.redis_url,
    }
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    end = time.monotonic() + 10
    while not (found := workers.list_all()) and time.monotonic() < end:
        time.sleep(0.05)
    assert [worker.pid for worker in found] == [int(done.stdout)]
    assert found[0].report["lane_name"] == found[0].lane_name
