"""The queue: an RQ entry says "look at attempt 3 of job 17". Redis holds nothing that the table cannot give again.

RQ's own retry, stop and time limit are not used (research: reliability, section 0).
"""

from __future__ import annotations

import contextlib
import re

import redis
import structlog
from rq import Queue as RqQueue
from rq.exceptions import NoSuchJobError
from rq.job import Job
from rq.serializers import JSONSerializer

ORDER = ("first", "high", "normal")
ENTRY = "worker.run_training_job"
KEY = re.compile(rf"{Job.redis_job_namespace_prefix}job-([0-9]+)-([0-9]+)")
log = structlog.get_logger()


class Queue:
    def __init__(self, redis_url: str) -> None:
        # Short: a page may be waiting. RQ's worker sets a longer one on the connection it is given.
        self.connection = redis.Redis.from_url(redis_url, socket_connect_timeout=1, socket_timeout=1)

    def push(self, job_id: int, attempt: int, rank: str) -> bool:
        """Enqueue one attempt; False when Redis is away, in which case the clock pushes it again."""
        try:
            self._queue(rank).enqueue(
                ENTRY, job_id, attempt, job_id=entry_id(job_id, attempt), job_timeout=-1, result_ttl=0, failure_ttl=0
            )
        except redis.RedisError as error:
            log.warning("queue_away", job=job_id, error=str(error))
            return False
        return True

    def holds(self, job_id: int, attempt: int) -> bool:
        """Whether the entry still waits to be taken; True when Redis cannot be asked.

        One that was taken counts as gone, though nobody may have begun it: a second push is harmless, because a claim is a
        compare-and-set. RQ's own word for it, its status, stays `queued` when a worker dies with what it has just taken.
        """
        try:
            return any(self.connection.lpos(queue.key, entry_id(job_id, attempt)) is not None for queue in self.all())
        except redis.RedisError:
            return True

    def known(self) -> set[tuple[int, int]]:
        """Every entry of which Redis has something, (job, attempt): waiting, taken, or left behind. None when it cannot be
        asked."""
        try:
            keys = self.connection.scan_iter(match=f"{Job.redis_job_namespace_prefix}job-*", count=1000)
            found = [KEY.fullmatch(key.decode()) for key in keys]
        except redis.RedisError:
            return set()
        return {(int(match[1]), int(match[2])) for match in found if match}

    def forget(self, job_id: int, attempt: int) -> None:
        """Remove what a worker that died has left of an entry: RQ itself would keep it until its maintenance comes round."""
        with contextlib.suppress(redis.RedisError, NoSuchJobError):
            job = Job.fetch(entry_id(job_id, attempt), connection=self.connection, serializer=JSONSerializer)
            try:
                job.delete()
            except ValueError:  # RQ misses its note of an execution, which expires before our lease does
                self.connection.delete(job.key, job.execution_registry.key)

    def all(self) -> list[RqQueue]:
        """Every queue, the one to be emptied first in front."""
        return [self._queue(rank) for rank in ORDER]

    def _queue(self, rank: str) -> RqQueue:
        return RqQueue(f"training-{rank}", connection=self.connection, serializer=JSONSerializer)


def entry_id(job_id: int, attempt: int) -> str:
    """The id of a queue entry: unique by job and attempt."""
    return f"job-{job_id}-{attempt}"
