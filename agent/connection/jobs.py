"""What the connection asks of whoever looks after the jobs, and the answers it takes to the server."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from ..protocol import JobSpec, Message
from ..spool import SpoolReader

Reply = tuple[str, Message]


def refusal(job: int, attempt: int, cause: str, message: str, advice: str) -> Reply:
    """The answer that this machine will not do the job: whose doing it is, a sentence, and what to do."""
    return "job_refuse", {"job": job, "attempt": attempt, "cause": cause, "message": message, "advice": advice}


class Held(Protocol):
    """An attempt this machine has, running or waiting for the server to store its end."""

    @property
    def job(self) -> int: ...
    @property
    def attempt(self) -> int: ...
    @property
    def reader(self) -> SpoolReader: ...


class Jobs(Protocol):
    """What the connection asks of whoever looks after the jobs."""

    def hello(self) -> Message: ...
    def heartbeat(self) -> Message: ...
    def held(self) -> Iterable[Held]: ...
    async def offered(self, spec: JobSpec) -> Reply | None: ...
    async def ordered(self, job: int, attempt: int, mode: str) -> Reply | None: ...
    async def abandon(self, job: int, attempt: int) -> None: ...
    async def final_stored(self, job: int, attempt: int) -> None: ...
