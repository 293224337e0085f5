"""Our own processes beside the web: `python worker.py` trains, `python worker.py --clock` keeps the schedule.

The worker imports torch once and then forks for every job, so a job reaches its first step in a second or two. RQ only
says "look at attempt 3 of job 17"; what happens to it is decided in the database. Three processes work on a job: this
one, the horse that RQ forks (it executes the runner, like the supervisor on a member's machine), and the training child,
which the horse forks before it starts a thread.
"""

from __future__ import annotations

import argparse
import contextlib
import mmap
import os
import signal
import socket
import struct
import sys
import threading
import time
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import structlog
from flask import Flask
from redis import RedisError
from rq import Queue as RqQueue
from rq import Worker
from rq.job import Job

from agent import recipes, sandbox
from agent.child import main as carry_out
from agent.protocol import STREAMS, JobSpec
from agent.runner import Final, ForkedChild, Say, Spool, run
from agent.spool import empty_item
from app import create_app
from models.base import release
from services import clock, server_files, training_jobs, workers
from services.config import BadSetting, Settings
from services.errors import Conflict, Invalid, NotFound
from services.gateways import gateways
from services.gateways.queue import Queue

RENEW_SECONDS = 5.0
FORWARD_SECONDS = 0.25  # each round costs the training a little of its cores
GIVE_UP_SECONDS = 72.0  # 80 % of the lease: this worker ends the child before anybody else may begin
LAST_RESORT_SECONDS = 80.0  # the child ends itself when its runner hangs; still within the lease
SEEN_SECONDS = 30.0  # a worker reports itself; RQ comes by as often while it waits and while a job runs
BATCH_BYTES = 262_144
Batch = tuple[int, list[Any]]  # the number of the first record, and the records
log = structlog.get_logger()


class Presence:
    """Reports this worker again and again, each time from a short-lived copy of it.

    The worker itself holds no connection and starts no thread: both would be forked into every job.
    """

    def __init__(self, accelerator: str) -> None:
        self._name, self._accelerator = f"{socket.gethostname()} {os.getpid()}", accelerator
        self._told = sandbox.probe().to_json()
        self._owner, self._next, self._copy = os.getpid(), 0.0, 0

    def renew(self) -> None:
        """Report, when it is time and the last copy has ended. In a horse, which RQ lets give signs of life too, nothing."""
        if os.getpid() != self._owner:
            return
        if self._copy and os.waitpid(self._copy, os.WNOHANG)[0]:
            self._copy = 0
        if self._copy or time.monotonic() < self._next:
            return
        self._next = time.monotonic() + SEEN_SECONDS - 1
        sys.stdout.flush()
        self._copy = os.fork()
        if self._copy == 0:
            self._report()

    def _report(self) -> NoReturn:
        try:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.SIG_DFL)
            with create_app().app_context():
                workers.report(self._name, socket.gethostname(), self._owner, self._accelerator, self._told)
        except Exception as error:  # the database is away; the next copy tries again
            log.warning("worker_not_reported", error=f"{type(error).__name__}: {error}")
        finally:
            sys.stdout.flush()
            os._exit(0)


class TrainingWorker(Worker):
    """Asked to end, it lets the running job save a checkpoint instead of waiting for its end."""

    presence: Presence | None = None

    def heartbeat(self, *given: Any, **named: Any) -> None:
        """RQ's sign of life, and ours; called every SEEN_SECONDS or more often, in the main thread."""
        super().heartbeat(*given, **named)
        if self.presence is not None:
            self.presence.renew()

    def maintain_heartbeats(self, job: Job) -> None:
        """RQ's, which may fail: with Redis away the training goes on, and so does whoever waits for its end."""
        with contextlib.suppress(RedisError):
            super().maintain_heartbeats(job)

    def set_current_job_working_time(self, *given: Any, **named: Any) -> None:
        """The same."""
        with contextlib.suppress(RedisError):
            super().set_current_job_working_time(*given, **named)

    def monitor_work_horse(self, job: Job, queue: RqQueue) -> None:
        """RQ's, and then put away what it notes of an entry that was forgotten meanwhile: a sign of life and nothing else."""
        super().monitor_work_horse(job, queue)
        with contextlib.suppress(RedisError):
            if self.connection.hkeys(job.key) == [b"last_heartbeat"]:
                self.connection.delete(job.key)

    def request_stop(self, signum: int, frame: FrameType | None) -> None:
        if self.horse_pid:
            os.kill(self.horse_pid, signal.SIGTERM)
        super().request_stop(signum, frame)


class Depot:
    """Where the server's own runner gets files from and puts them: the same disk. The runner calls it in threads."""

    def __init__(self, app: Flask) -> None:
        self._app = app

    def fetch_data(self, spec: JobSpec, folder: Path, say: Say) -> Path:
        with self._app.app_context():
            return server_files.data_for(spec, folder)

    def fetch_base(self, spec: JobSpec, folder: Path, say: Say) -> str:
        with self._app.app_context():
            return server_files.base_for(spec, folder)

    def deliver(self, spec: JobSpec, output: Path, say: Say) -> None:
        with self._app.app_context():
            server_files.deliver(spec, output)


class Pulse:
    """Memory that a runner and its training child share: when the lease was renewed last, by the machine's clock.

    A runner that hangs or is frozen renews no lease and ends no child. So the child looks for itself, and two attempts
    never train at once.
    """

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 8)
        self.beat()

    def beat(self) -> None:
        """The lease was renewed now."""
        struct.pack_into("d", self._memory, 0, time.monotonic())

    def carry_out(self, assignment: dict[str, Any], events: int) -> int:
        """In the child: train, and die when the runner has been silent for too long."""
        threading.Thread(target=self._end_when_silent, name="pulse", daemon=True).start()
        return carry_out(assignment, events)

    def _end_when_silent(self) -> None:
        while time.monotonic() - struct.unpack_from("d", self._memory)[0] < LAST_RESORT_SECONDS:
            time.sleep(1)
        os.killpg(0, signal.SIGKILL)  # the child leads a group of its own


class Line:
    """Carries the spool of an attempt into the database, and the lease and the orders back, in a thread of its own."""

    def __init__(self, app: Flask, spec: JobSpec, spool: Spool, pulse: Pulse) -> None:
        self._app, self._spec, self._spool, self._pulse = app, spec, spool, pulse
        self._order: str | None = None
        self._asked_to_end = False
        self._nudged = False
        self._ending = threading.Event()
        self._heard = time.monotonic()
        self._thread = threading.Thread(target=self._keep, name="line", daemon=True)
        self._thread.start()
        threading.Thread(target=self._listen, name="orders", daemon=True).start()

    def orders(self) -> str | None:
        """What the runner has to obey now."""
        if time.monotonic() - self._heard > GIVE_UP_SECONDS:
            return "kill"
        return self._order or ("stop" if self._asked_to_end else None)

    def end(self, _number: int, _frame: FrameType | None) -> None:
        """SIGTERM: the worker ends, and the job goes on elsewhere from the checkpoint it writes now."""
        self._asked_to_end = True

    def finish(self, final: Final) -> None:
        """Send what is left and the end; tries until the database has it."""
        self._ending.set()
        self._thread.join()
        while not self._told_the_end(final):
            time.sleep(1)

    def _listen(self) -> None:
        with self._app.app_context(), gateways().hints.waiting(f"orders:{self._spec.job}") as wake:
            while wake.wait():
                wake.clear()
                self._nudged = True

    def _keep(self) -> None:
        with self._app.app_context():
            self._pass_on()

    def _pass_on(self) -> None:
        renewed = float("-inf")
        while not self._ending.is_set():
            try:
                if time.monotonic() - renewed > RENEW_SECONDS or self._nudged:
                    self._nudged = False
                    self._order = training_jobs.renew(self._spec.job, self._spec.attempt)
                    renewed = self._heard = time.monotonic()
                    self._pulse.beat()
                self._forward(RENEW_SECONDS)
            except (NotFound, Conflict):  # the attempt is over for the server
                self._order = "cancel"
            except Exception as error:  # the database is away; the spool keeps everything
                log.warning("line_interrupted", job=self._spec.job, error=f"{type(error).__name__}: {error}")
                time.sleep(1)
            finally:
                release()
            self._ending.wait(FORWARD_SECONDS)

    def _forward(self, seconds: float = float("inf")) -> None:
        """Store what is in the spool, for so long at most and until an order may have come: a training that prints faster
        than it can be stored must still keep its lease and obey."""
        end = time.monotonic() + seconds
        while given := self._unsent():
            for stream, through in self._stored(given).items():
                self._spool.acknowledge(stream, through)
            if time.monotonic() >= end or self._nudged:
                return

    def _unsent(self) -> dict[str, Batch]:
        read = {s: self._spool.read(s, self._spool.acknowledged[s], BATCH_BYTES) for s in STREAMS}
        return {stream: (first, items) for stream, (first, items) in read.items() if items}

    def _stored(self, given: dict[str, Batch]) -> dict[str, int]:
        try:
            return training_jobs.record_all(self._spec.job, self._spec.attempt, given)
        except Invalid:
            return {stream: self._stored_alone(stream, *batch) for stream, batch in given.items()}

    def _stored_alone(self, stream: str, first: int, items: list[Any]) -> int:
        try:
            return training_jobs.record(self._spec.job, self._spec.attempt, stream, first, items)
        except Invalid as error:  # a record that no page can show must not hold up the others
            log.error("records_refused", job=self._spec.job, stream=stream, first=first, error=error.message)
            empty = [empty_item(stream) for _ in items]
            return training_jobs.record(self._spec.job, self._spec.attempt, stream, first, empty)

    def _told_the_end(self, final: Final) -> bool:
        try:
            training_jobs.hold_on(self._spec.job, self._spec.attempt)
            self._forward()
            told = self._spool.final or {}
            end = training_jobs.Final(
                final.outcome, final.cause, final.message, final.advice, told.get("last"), told.get("log_sha256")
            )
            training_jobs.end(self._spec.job, self._spec.attempt, end)
        except (NotFound, Conflict):
            return True  # the attempt is over for the server; nobody waits for its end
        except Exception as error:
            log.warning("end_not_told", job=self._spec.job, error=f"{type(error).__name__}: {error}")
            return False
        finally:
            release()
        return True


def run_training_job(job_id: int, number: int) -> None:
    """Execute one attempt; RQ calls it in a process of its own."""
    pulse = Pulse()
    child = ForkedChild(pulse.carry_out)  # before create_app: no thread and no connection exists yet
    _give_way()
    app = create_app()
    with app.app_context():
        spec = training_jobs.claim(job_id, number, f"{socket.gethostname()} {os.getpid()}")
        terms = training_jobs.terms_of(job_id, f"{socket.gethostname()} {os.getppid()}") if spec else {}
        release()
        if spec is None:
            child.close()
            return
        folder = server_files.folder_for(job_id)
        spool = Spool(folder / "attempts" / str(number) / "spool")
        line = Line(app, spec, spool, pulse)
        signal.signal(signal.SIGTERM, line.end)
        final = run(spec, folder, spool, Depot(app), child, line.orders, blame="platform", terms=terms)
        line.finish(final)


def _give_way() -> None:
    """The training comes first: this process gets a smaller share, and never interrupts it just because it woke up."""
    os.nice(5)
    if sys.platform == "linux":
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def work() -> None:
    """Load everything a training needs, then wait for jobs."""
    settings = Settings.from_env()
    recipes.load("language")
    queue = Queue(settings.redis_url)
    seen = int(SEEN_SECONDS)
    worker = TrainingWorker(
        queue.all(), connection=queue.connection, serializer=queue.all()[0].serializer, job_monitoring_interval=seen,
        worker_ttl=seen + 15,  # RQ waits for a job 15 s less than this before it comes by
    )  # fmt: skip
    worker.presence = Presence(settings.accelerator)
    log.info("worker_ready", pid=os.getpid())
    worker.work(logging_level="WARNING")


def main() -> int:
    """The command line; answers the exit code."""
    parser = argparse.ArgumentParser(description="Train jobs, or keep the schedule.")
    parser.add_argument("--clock", action="store_true", help="keep the schedule instead of training")
    try:
        if parser.parse_args().clock:
            clock.build(create_app()).start()
        else:
            work()
    except BadSetting as error:
        print(error, file=sys.stderr)
        return 2
    except (KeyboardInterrupt, SystemExit):
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
