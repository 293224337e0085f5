"""A whole yard as real processes, a member who uses it, and an agent: for the whole tests, the demo and the benchmarks.

`RunningYard` starts `python app.py` on a port and in a folder of its own, `Member` speaks the outward contract over HTTP
with nothing but the standard library, `AgentProcess` runs the agent as it is downloaded from that yard. Every wait has an
end (`NotInTime`), and leaving the `with` block leaves no process behind.
"""

from __future__ import annotations

import contextlib
import ctypes
import http.client
import http.cookiejar
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

import psutil

ROOT = Path(__file__).resolve().parent.parent
PASSWORD = "correct horse battery"
MARK = "TRAINYARD_STARTED_BY"
START_SECONDS = 60.0
END_SECONDS = 40.0
FINAL_STATES = ("completed", "failed", "cancelled")
# What the operator's shell may hold and a private yard must not take over.
FOREIGN = (
    "PORT", "HOST", "PUBLIC_URL", "VAR_DIR", "TRUST_PROXY", "LOG_LEVEL", "SECRET_KEY", "DATABASE_URL", "REDIS_URL",
    "WORKERS", "SERVER_ACCELERATOR", "BASE_MODELS_DIR", "MAIL_SERVER", "TRAINYARD_API_KEY", "TRAINYARD_SERVER_URL",
    "TRAINYARD_TIMINGS", "PYTHONPATH", "PYTHONHOME",
)  # fmt: skip
NO_HUB = "http://127.0.0.1:9"
PR_SET_PDEATHSIG = 1

Found = TypeVar("Found")


class NotInTime(AssertionError):
    """Something did not happen within its time; `str()` says what."""


class Refused(Exception):
    """An answer of 400 or above: `status`, `error` (code, message, fields, ...)."""

    def __init__(self, status: int, error: dict[str, Any]) -> None:
        super().__init__(f"{status} {error.get('code')}: {error.get('message')}")
        self.status, self.error = status, error


def until(look: Callable[[], Found | None], seconds: float, what: str, pause: float = 0.1) -> Found:
    """Look again and again until there is something. Raises NotInTime after `seconds`."""
    end = time.monotonic() + seconds
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > end:
            raise NotInTime(f"not within {seconds:g} s: {what}")
        time.sleep(pause)


def free_port() -> int:
    """A port of the loopback interface that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def clean_environment(more: Mapping[str, str]) -> dict[str, str]:
    """This process's environment without what would change a yard or an agent, and `more`."""
    kept = {name: value for name, value in os.environ.items() if name not in FOREIGN}
    return {**kept, "HF_ENDPOINT": NO_HUB, **more}


def end_with_starter() -> None:
    """In a new process: ask the kernel for a SIGTERM when the one that started it dies (Linux, prctl(2))."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


class Family:
    """Every process that descends from one that was started here, orphans included: they share a mark in the environment."""

    def __init__(self) -> None:
        self.mark = uuid.uuid4().hex
        self._seen: set[psutil.Process] = set()

    def look(self, leader: int | None) -> list[psutil.Process]:
        """The living ones. A process that overwrites its environment is known from an earlier look, as a descendant."""
        if leader is not None:
            with contextlib.suppress(psutil.Error):
                parent = psutil.Process(leader)
                self._seen |= {parent, *parent.children(recursive=True)}
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                if process.environ().get(MARK) == self.mark:
                    self._seen.add(process)
        return [process for process in self._seen if lives(process)]

    def kill(self, leader: int | None) -> None:
        """End all of them, and wait until they are gone."""
        for _ in range(3):
            left = self.look(leader)
            for process in left:
                with contextlib.suppress(psutil.Error):
                    process.kill()
            psutil.wait_procs(left, timeout=5)


def lives(process: psutil.Process) -> bool:
    """Whether it runs, or could: one that has ended and waits to be reaped does not."""
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def _named(processes: Iterable[psutil.Process], *words: str) -> list[psutil.Process]:
    found = []
    for process in processes:
        with contextlib.suppress(psutil.Error):
            line = " ".join(process.cmdline())
            if all(word in line for word in words) and lives(process):
                found.append(process)
    return found


class RunningYard:
    """`python app.py` in a folder of its own. Use it as a context manager, or call `start` and `close`."""

    def __init__(self, folder: Path, port: int | None = None, **settings: str) -> None:
        self.folder, self.port = folder, port or free_port()
        self.var_dir = folder / "var"
        self.output_file = folder / "output.txt"
        self.settings = settings
        self._family = Family()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> RunningYard:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        return f"http://localhost:{self.port}"

    @property
    def socket_url(self) -> str:
        return f"ws://localhost:{self.port}"

    @property
    def output(self) -> str:
        """What it has printed, over all starts."""
        return self.output_file.read_text() if self.output_file.exists() else ""

    @property
    def environment(self) -> dict[str, str]:
        """What its processes are told; a command beside it that is given the same works on the same yard."""
        own = {"PORT": str(self.port), "VAR_DIR": str(self.var_dir), MARK: self._family.mark}
        return clean_environment({**own, **self.settings})

    def launch(self) -> subprocess.Popen[bytes]:
        """Start it without waiting for anything."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with open(self.output_file, "ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, str(ROOT / "app.py")], cwd=ROOT, env=self.environment, stdin=subprocess.DEVNULL,
                stdout=output, stderr=output, start_new_session=True, preexec_fn=end_with_starter,
            )  # fmt: skip
        return self._process

    def start(self) -> float:
        """Start it and return after how many seconds it answered."""
        began = time.monotonic()
        process = self.launch()

        def answers() -> bool:
            if process.poll() is not None:
                raise AssertionError(f"the yard ended with {process.returncode}: {self.output}")
            return self.answers()

        until(answers, START_SECONDS, f"the yard answers at {self.url}; {self.output}", 0.05)
        took = time.monotonic() - began
        # It prints its address a moment after the web answers; from then on it looks after its parts.
        until(lambda: "Ctrl-C ends it." in self.output, 10, "the yard says that it is there")
        self.family()
        return took

    def answers(self) -> bool:
        """Whether the web process does."""
        try:
            with urllib.request.urlopen(f"{self.url}/healthz", timeout=2) as answer:
                return bool(answer.status == 200)
        except (OSError, http.client.HTTPException):
            return False

    def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        """End it as Ctrl-C does; the exit code. Raises AssertionError when a process is left."""
        assert self._process is not None
        self.family()
        self._process.send_signal(number)
        code = self._process.wait(END_SECONDS)
        left = [f"{process.pid} {' '.join(process.cmdline())}" for process in self.family()]
        assert not left, f"left behind: {left}"
        return code

    def lose_power(self) -> None:
        """Every process of it is gone from one moment to the next, as when its host restarts."""
        assert self._process is not None
        self._family.kill(self._process.pid)
        self._process.wait(5)

    def close(self) -> None:
        """End it however it is."""
        leader = self._process.pid if self._process and self._process.poll() is None else None
        if leader is not None and self._process is not None:
            self.family()
            with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired):
                self._process.send_signal(signal.SIGCONT)
                self._process.send_signal(signal.SIGINT)
                self._process.wait(END_SECONDS)
        self._family.kill(leader)
        if self._process is not None:
            self._process.wait(5)

    # --- its processes ------------------------------------------------------------------------------------------------

    def family(self) -> list[psutil.Process]:
        """Every living process of it."""
        leader = self._process.pid if self._process and self._process.poll() is None else None
        return self._family.look(leader)

    def parent(self) -> psutil.Process:
        """`python app.py` itself."""
        assert self._process is not None
        return psutil.Process(self._process.pid)

    def web_master(self) -> psutil.Process:
        return self._part("gunicorn")

    def web_worker(self) -> psutil.Process:
        return until(lambda: next(iter(self.web_master().children()), None), 10, "the web has a worker process")

    def redis(self) -> psutil.Process:
        return self._part("redis-server")

    def clock(self) -> psutil.Process:
        return self._part("worker.py", "--clock")

    def workers(self) -> list[psutil.Process]:
        """Those that wait for jobs and fork for each."""
        return [p for p in _named(self.parent().children(), "worker.py") if "--clock" not in p.cmdline()]

    def worker(self) -> psutil.Process:
        """The first of them."""
        return next(iter(self.workers()))

    def horse(self) -> psutil.Process | None:
        """The runner of the server job that trains now."""
        horses = [process for worker in self.workers() for process in worker.children()]
        return next((process for process in horses if lives(process)), None)

    def child(self) -> psutil.Process | None:
        """The training process of the server job that trains now."""
        horse = self.horse()
        return next((process for process in horse.children() if lives(process)), None) if horse else None

    def kill_web(self) -> None:
        """Kill -9 the web, worker process and master."""
        master = self.web_master()
        victims = [*master.children(), master]
        for process in victims:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        until(lambda: not self.answers(), 10, "the web is gone")

    @contextlib.contextmanager
    def without_web(self) -> Iterator[None]:
        """The web is killed and nobody starts it again until the block ends; then it answers again."""
        parent = self.parent()
        parent.suspend()
        try:
            self.kill_web()
            yield
        finally:
            parent.resume()
        until(self.answers, START_SECONDS, "the web is back", 0.05)

    def _part(self, *words: str) -> psutil.Process:
        what = f"there is a process {' '.join(words)}"
        return until(lambda: next(iter(_named(self.parent().children(), *words)), None), 10, what)


@dataclass(frozen=True)
class Answer:
    """What came back, whatever its status."""

    status: int
    headers: Any
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Event:
    """One Server-Sent Event and when it arrived, in seconds since the epoch."""

    name: str
    number: int
    data: Any
    at: float


class Member:
    """A person's program: keeps the session, or sends `key` instead, speaks JSON."""

    def __init__(self, url: str, key: str | None = None) -> None:
        self.url, self.key = url, key
        jar = urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar())
        self._opener = urllib.request.build_opener(jar, urllib.request.ProxyHandler({}))

    @classmethod
    def signed_up(cls, url: str, name: str, plan: str | None = None) -> Member:
        """Somebody new, on a paid plan if one is named."""
        member = cls(url)
        member.post("/signup", {"email": f"{name}@example.com", "username": name, "password": PASSWORD})
        if plan is not None:
            member.upgrade(plan)
        return member

    # --- asking -------------------------------------------------------------------------------------------------------

    def open(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None, seconds: float = 30
    ) -> Any:
        """Send a request and answer the response to be read. `body` is bytes, or something that JSON can say."""
        sent = {"Accept": "application/json", **(headers or {})}
        if self.key:
            sent["Authorization"] = f"Bearer {self.key}"
        if body is not None and not isinstance(body, bytes):
            body, sent["Content-Type"] = json.dumps(body).encode(), "application/json"
        request = urllib.request.Request(self.url + path, body, sent, method=method)
        return self._opener.open(request, timeout=seconds)

    def ask(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Answer:
        """The whole answer, whatever its status."""
        try:
            with self.open(method, path, body, headers) as response:
                return Answer(response.status, response.headers, response.read())
        except urllib.error.HTTPError as refusal:
            with refusal:
                return Answer(refusal.code, refusal.headers, refusal.read())

    def get(self, path: str) -> Any:
        """JSON. Raises Refused."""
        return self._accepted(self.ask("GET", path))

    def post(self, path: str, body: Any = None) -> Any:
        """JSON. Raises Refused."""
        return self._accepted(self.ask("POST", path, {} if body is None else body))

    @staticmethod
    def _accepted(answer: Answer) -> Any:
        if answer.status < 400:
            return answer.json if answer.body else None
        try:
            error = answer.json["error"]
        except (ValueError, KeyError, TypeError):
            error = {"code": "not_json", "message": answer.body[:300].decode(errors="replace")}
        raise Refused(answer.status, error)

    # --- people and credits -------------------------------------------------------------------------------------------

    def log_in(self, email: str, password: str = PASSWORD) -> None:
        self.post("/login", {"email": email, "password": password})

    def upgrade(self, plan: str) -> Any:
        tiers = {tier["name"]: tier["id"] for tier in self.get("/api/subscription/tiers")}
        return self.post("/api/subscription/upgrade", {"tier_id": tiers[plan]})

    def new_key(self, name: str = "desk", scope: str = "agent") -> dict[str, Any]:
        """`{id, name, scope, key}`."""
        made: dict[str, Any] = self.post("/api/keys", {"name": name, "scope": scope})
        return made

    def credits(self) -> dict[str, int]:
        """`remaining`, `held` and `used` now."""
        told = self.get("/api/subscription")
        return {name: told[f"credits_{name}"] for name in ("remaining", "held", "used")}

    # --- data ---------------------------------------------------------------------------------------------------------

    def new_dataset(
        self, path: Path, name: str | None = None, mapping: Mapping[str, str] | None = None, kind: str = "conversation"
    ) -> dict[str, Any]:
        """Upload a file as the multipart form of the contract; what was made. Raises Refused."""
        boundary = uuid.uuid4().hex
        fields = {"name": name or path.stem, "kind": kind}
        if mapping:
            fields["mapping"] = json.dumps(dict(mapping))
        lines = [
            f'--{boundary}\r\nContent-Disposition: form-data; name="{n}"\r\n\r\n{v}\r\n' for n, v in fields.items()
        ]
        file = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{path.name}"\r\n\r\n'
        body = "".join([*lines, file]).encode() + path.read_bytes() + f"\r\n--{boundary}--\r\n".encode()
        headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
        made: dict[str, Any] = self._accepted(self.ask("POST", "/api/datasets", body, headers))
        return made

    # --- jobs ---------------------------------------------------------------------------------------------------------

    def new_job(
        self,
        name: str,
        place: str | dict[str, int],
        parameters: Mapping[str, Any],
        dataset_id: int | None = None,
        **more: Any,
    ) -> int:
        """Order a training; its id. Raises Refused."""
        body = {"name": name, "recipe": "language", "place": place, "parameters": dict(parameters), **more}
        if dataset_id is not None:
            body["dataset_id"] = dataset_id
        return int(self.post("/api/training-jobs", {"base_model": "yard-tiny", **body})["id"])

    def job(self, job: int) -> dict[str, Any]:
        """The job as the API tells it, `debugData` included."""
        told: dict[str, Any] = self.get(f"/api/training-jobs/{job}")
        return told

    def order(self, job: int, verb: str) -> dict[str, Any]:
        """stop, resume, retry or cancel."""
        told: dict[str, Any] = self.post(f"/api/training-jobs/{job}/{verb}")
        return told

    def wait_for_status(self, job: int, *wanted: str, seconds: float = 90) -> dict[str, Any]:
        """The job once it is in one of these states; a server that is away for a while is asked again.

        Raises NotInTime, also at once when the job has ended in another way.
        """
        last: dict[str, Any] = {}

        def look() -> dict[str, Any] | None:
            nonlocal last
            with contextlib.suppress(OSError, http.client.HTTPException):
                last = self.job(job)
                if last["status"] in wanted:
                    return last
                if last["status"] in FINAL_STATES:
                    raise NotInTime(
                        f"job {job} is {last['status']}, not {wanted}: {last['error']}\n{self.log(job)[-2000:]}"
                    )
            return None

        try:
            return until(look, seconds, f"job {job} is {' or '.join(wanted)}")
        except NotInTime as late:
            told = {
                name: last.get(name) for name in ("status", "stage", "step", "attempt", "error", "disconnected_since")
            }
            raise NotInTime(f"{late}\nlast seen: {told}") from None

    def wait_for_step(self, job: int, step: int, seconds: float = 90) -> dict[str, Any]:
        """The job once it has trained so far. Raises NotInTime, at once when it can get no further."""

        def look() -> dict[str, Any] | None:
            told = self.job(job)
            if told["status"] in (*FINAL_STATES, "paused") and told["step"] < step:
                raise NotInTime(f"job {job} is {told['status']} at step {told['step']}: {told['error']}")
            return told if told["step"] >= step else None

        return until(look, seconds, f"job {job} is at step {step}", 0.05)

    def curve(self, job: int, name: str = "loss") -> list[list[Any]]:
        """[[step, value], ...]."""
        series = self.get(f"/api/training-jobs/{job}/metrics")["series"]
        return list(series.get(name, []))

    def log(self, job: int) -> str:
        """The whole log as text."""
        return self.ask("GET", f"/api/training-jobs/{job}/logs").body.decode()

    def events(self, job: int, after: int = 0, seconds: float = 60) -> Iterator[Event]:
        """Follow a job; ends with its `end`. `seconds` is the longest silence."""
        headers = {"Last-Event-ID": str(after), "Accept": "text/event-stream"}
        with self.open("GET", f"/api/training-jobs/{job}/events", headers=headers, seconds=seconds) as stream:
            yield from read_events(stream)

    def artifacts(self, job: int) -> list[dict[str, Any]]:
        """`[{name, bytes, sha256, url}]`."""
        return list(self.get(f"/api/training-jobs/{job}/artifacts"))

    def download(self, job: int, folder: Path) -> Path:
        """Every artifact of a job under its name in `folder`."""
        for artifact in self.artifacts(job):
            target = folder / artifact["name"]
            target.parent.mkdir(parents=True, exist_ok=True)
            with self.open("GET", artifact["url"], headers={"Accept": "*/*"}) as response, open(target, "wb") as file:
                while piece := response.read(1 << 20):
                    file.write(piece)
        return folder

    # --- machines -----------------------------------------------------------------------------------------------------

    def agents(self) -> list[dict[str, Any]]:
        return list(self.get("/api/agents"))

    def agent_named(self, name: str) -> dict[str, Any] | None:
        """One of the member's machines."""
        return next((agent for agent in self.agents() if agent["name"] == name), None)


def read_events(stream: IO[bytes]) -> Iterator[Event]:
    """Server-Sent Events as they come (WHATWG HTML, section 9.2.6); ends with `end` or the stream."""
    fields: dict[str, str] = {}
    for raw in stream:
        line = raw.decode().rstrip("\n")
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
            continue
        if "data" in fields:
            event = Event(fields["event"], int(fields["id"]), json.loads(fields["data"]), time.time())
            yield event
            if event.name == "end":
                return
        fields = {}


class AgentProcess:
    """The agent as a member downloads and runs it, with a home and one allowed root of its own.

    `port` is where it connects, when that is not the yard itself; `environment` and `options` are given to it besides.
    """

    def __init__(
        self,
        yard: RunningYard,
        key: str,
        folder: Path,
        name: str = "desk",
        python: str = sys.executable,
        *,
        port: int | None = None,
        environment: Mapping[str, str] | None = None,
        options: Sequence[str] = (),
    ) -> None:
        self.yard, self.key, self.name, self.python = yard, key, name, python
        self.port = port or yard.port
        self.environment, self.options = dict(environment or {}), tuple(options)
        self.home, self.root, self.log_file = folder / "home", folder / "models", folder / "agent.log"
        self.program = folder / "train_agent.py"
        for path in (self.home, self.root):
            path.mkdir(parents=True, exist_ok=True)
        self._family = Family()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> AgentProcess:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def said(self) -> str:
        """What it has printed, over all starts."""
        return self.log_file.read_text(errors="replace") if self.log_file.exists() else ""

    def start(self) -> None:
        """Download the program if it is not there, and run it."""
        if not self.program.exists():
            with urllib.request.urlopen(f"{self.yard.url}/train_agent.py", timeout=30) as answer:
                self.program.write_bytes(answer.read())
        command = [
            self.python, str(self.program), "--api-key", self.key, "--server-url", f"ws://localhost:{self.port}",
            "--name", self.name, "--home", str(self.home), "--root", str(self.root), *self.options,
        ]  # fmt: skip
        with open(self.log_file, "ab") as log:
            self._process = subprocess.Popen(
                command, env=clean_environment({**self.environment, MARK: self._family.mark}), stdin=subprocess.DEVNULL,
                stdout=log, stderr=log, start_new_session=True, preexec_fn=end_with_starter,
            )  # fmt: skip

    @property
    def pid(self) -> int:
        """Of the agent itself."""
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """Kill -9 the agent itself; its supervisors and their training live on."""
        assert self._process is not None
        self.family()
        self._process.kill()
        self._process.wait(10)

    def leave(self, seconds: float = 15) -> int:
        """End it politely; its exit code."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(seconds)

    def close(self) -> None:
        """End it, and every job it has."""
        leader = self._process.pid if self._process and self._process.poll() is None else None
        self._family.kill(leader)
        if self._process is not None:
            self._process.wait(5)

    def family(self) -> list[psutil.Process]:
        """Every living process of it: itself, supervisors, trainings."""
        leader = self._process.pid if self._process and self._process.poll() is None else None
        return self._family.look(leader)

    def jobs_at_work(self) -> list[psutil.Process]:
        """Its living processes but itself."""
        own = self._process.pid if self._process else 0
        return [process for process in self.family() if process.pid != own]

    def wait_online(self, member: Member, seconds: float = 30) -> dict[str, Any]:
        """The machine as its owner sees it, once it is connected. Raises NotInTime with what the agent said."""

        def look() -> dict[str, Any] | None:
            if self._process is not None and self._process.poll() is not None:
                raise NotInTime(f"{self.name} ended with {self._process.returncode} before it was online")
            found = member.agent_named(self.name)
            return found if found and found["status"] != "offline" else None

        try:
            return until(look, seconds, f"{self.name} is online")
        except NotInTime as late:
            raise NotInTime(f"{late}; it said: {self.said[-2000:]}") from None

    def job_folder(self, job: int) -> Path:
        """Where the agent keeps a job."""
        return self.home / ".trainyard" / "jobs" / f"localhost_{self.port}" / str(job)
