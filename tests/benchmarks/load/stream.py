"""Machines whose trainings print without end, while somebody reads the logs and somebody else opens pages."""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import dataclass, field

from tests.benchmarks.figures import Figure, quantile
from tests.benchmarks.load.machines import MACHINE
from tests.benchmarks.load.site import Load, Process, Reader
from tests.running import Member, until

FOLLOWERS = 5
AT_ONCE = 200  # machines that the API lists in one answer


@dataclass
class Follower:
    """Reads a job's events as its page does; when each line arrives is compared with when it was printed."""

    member: Member
    job: int
    lags: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._thread = threading.Thread(target=self._follow, daemon=True)
        self._thread.start()

    def _follow(self) -> None:
        with contextlib.suppress(OSError, ValueError):  # the yard ends before the job does
            for event in self.member.events(self.job, seconds=120):
                if event.name == "log":
                    self.lags += [event.at - float(line.split()[1]) for line in event.data["text"].splitlines()]


def start_trainings(load: Load, count: int) -> list[int]:
    """Order a training for each of so many connected machines. Their ids."""
    machines: list[int] = []
    while page := load.member.get(f"/api/agents?limit={AT_ONCE}" + (f"&before={machines[-1]}" if machines else "")):
        machines += [agent["id"] for agent in page if agent["status"] != "offline"]
        if len(page) < AT_ONCE or len(machines) >= count:
            break
    rows = f"{MACHINE['roots'][0]}/rows.jsonl"
    return [
        load.member.new_job(f"training {number}", {"agent": machine}, {"method": "lora"}, local_path=rows)
        for number, machine in enumerate(machines[:count])
    ]


def stream(load: Load, count: int, a_second: float, seconds: float) -> list[Figure]:
    """So many trainings print so many lines a second each: what is stored, how late, and what else still works."""
    with load.crowd(count) as crowd:
        jobs = start_trainings(load, count)
        until(lambda: crowd.ask("state")["trainings"] >= count, 60, "every machine has its training")
        followers = [Follower(load.member, job) for job in jobs[:FOLLOWERS]]
        time.sleep(1)
        used = Process(load.yard.web_worker())
        with Reader(
            load.member, (f"/training-jobs/{jobs[-1]}", "/dashboard", "/ai-training", "/datasets"), 0.2
        ) as reader:
            crowd.begin("stream", a_second=a_second, seconds=seconds)
            time.sleep(seconds)
            percent = used.percent
        told = crowd.answer()
        lags = [lag for follower in followers for lag in follower.lags]
        about = f"{count} machines × {a_second:.0f} lines/s for {seconds:.0f} s"
        late = f"median {quantile(told['lags'], 0.5):.2f} s, worst {max(told['lags']):.2f} s"
        seen = f"{FOLLOWERS} readers; median {quantile(lags, 0.5):.2f} s, worst {max(lags):.2f} s"
        pages = f"{len(reader.seconds)} pages; median {1000 * quantile(reader.seconds, 0.5):.0f} ms; slowest {reader.slowest[1]}"
        return [
            Figure("streaming: lines stored", told["stored"] / told["seconds"], "lines/s", None,
                   f"{about}; {told['stored']:,} of {told['printed']:,}, the last after {told['seconds']:.1f} s"),
            Figure("streaming: lines not stored a minute later", told["printed"] - told["stored"], "in all", 0, about),
            Figure("streaming: printed to stored, p95", quantile(told["lags"], 0.95), "s", None, late, {"lags": told["lags"]}),
            Figure("streaming: printed to read, p95", quantile(lags, 0.95), "s", None, seen),
            Figure("streaming: page, p95", 1000 * quantile(reader.seconds, 0.95), "ms", None, pages),
            Figure("streaming: processor of the web", percent, "% of a core", None, about),
        ]  # fmt: skip
