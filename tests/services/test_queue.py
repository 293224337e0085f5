"""The door to the queue on a real Redis: what a worker that died has left of an entry is put away."""

from __future__ import annotations

import pytest
from rq import Queue as RqQueue
from rq import Worker
from rq.job import Job
from rq.serializers import JSONSerializer

from services.gateways.queue import Queue, entry_id


@pytest.mark.parametrize("execution_expired", [False, True])
def test_what_a_dead_worker_left_of_an_entry_is_forgotten(redis_url: str, execution_expired: bool) -> None:
    queue = Queue(redis_url)
    redis = queue.connection
    assert queue.push(4711, 1, "first")
    worker = Worker(queue.all(), connection=redis, serializer=JSONSerializer)
    job = Job.fetch(entry_id(4711, 1), connection=redis, serializer=JSONSerializer)
    worker.prepare_execution(job)
    worker.prepare_job_execution(job)  # and here it is killed
    if execution_expired:
        (execution,) = job.get_executions()
        redis.delete(execution.key)
    queue.forget(4711, 1)
    assert not [key for key in redis.keys("rq:*") if b"4711" in key]
    queue.forget(4711, 1)  # once more changes nothing


def test_an_entry_that_was_taken_and_not_begun_is_one_that_can_be_pushed_again(redis_url: str) -> None:
    queue = Queue(redis_url)
    for one in queue.all():
        one.empty()
    assert not queue.holds(4712, 1)
    assert queue.push(4712, 1, "normal") and queue.holds(4712, 1) and not queue.holds(4712, 2)
    taken = RqQueue.dequeue_any(queue.all(), 1, connection=queue.connection, serializer=JSONSerializer)
    assert taken is not None and taken[0].id == entry_id(4712, 1)  # and here the worker is killed
    assert not queue.holds(4712, 1)
    assert queue.push(4712, 1, "normal") and queue.holds(4712, 1)
    queue.forget(4712, 1)
    assert not queue.holds(4712, 1)
