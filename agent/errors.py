"""How a job can end badly, and whose doing it was.

Three kinds, because three different things follow:

* `JobFailed`: this job cannot go on. The member reads the message and the advice; the cause decides who pays.
* `AgentFailed`: this machine cannot go on just now (disk full, a device that vanished). Try again later.
* `Fatal`: the program itself must stop (revoked key, wrong version). Trying again would not help.
"""

from __future__ import annotations

from agent.protocol import CAUSES


class JobFailed(Exception):
    """The job failed for a reason that its owner should read: a cause, a sentence, and what to do about it."""

    def __init__(self, cause: str, message: str, advice: str) -> None:
        if cause not in CAUSES:
            raise ValueError(f"{cause!r} is no failure cause; the causes are {', '.join(CAUSES)}.")
        super().__init__(message)
        self.cause = cause
        self.message = message
        self.advice = advice

    def __reduce__(self) -> tuple[type[JobFailed], tuple[str, str, str]]:
        # An exception crosses from the training child to the runner; the default would lose two arguments.
        return JobFailed, (self.cause, self.message, self.advice)


class AgentFailed(Exception):
    """This machine cannot go on with the job now; nothing is wrong with the job. It may be tried again later."""


class Fatal(Exception):
    """The program must stop and say why; starting it again changes nothing."""
