"""Live nudges between processes over Redis pub/sub: "look at job 17 again".

A hint carries no truth and may be lost; whoever waits looks again after a while anyway. One listening thread per process
fans the hints out to the waiters in it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from queue import SimpleQueue

import redis
import structlog

CHANNEL = "trainyard:hints"
PATIENCE = 0.5  # seconds that whoever nudges waits for Redis
AWAY_SECONDS = 5.0  # for so long nobody waits for a Redis that did not answer
log = structlog.get_logger()


class Hints:
    """`publish("job:17")` wakes every `with waiting("job:17") as wake: wake.wait(...)` in all processes."""

    def __init__(self, redis_url: str) -> None:
        self._redis = redis.Redis.from_url(redis_url, socket_timeout=PATIENCE, socket_connect_timeout=PATIENCE)
        self._ask_again_at = 0.0
        self._listener_redis = redis.Redis.from_url(redis_url, socket_connect_timeout=2)
        self._waiters: dict[str, set[threading.Event]] = {}
        self._readers: dict[str, set[SimpleQueue[str]]] = {}  # of all topics of a kind
        self._lock = threading.Lock()
        self._listener: threading.Thread | None = None

    def publish(self, topic: str) -> None:
        """Nudge; a Redis that is away or hangs costs the nudge in other processes, and a moment now and then."""
        if time.monotonic() < self._ask_again_at:
            self._wake(topic)
            return
        try:
            self._redis.publish(CHANNEL, topic)
        except redis.RedisError:
            self._ask_again_at = time.monotonic() + AWAY_SECONDS
            self._wake(topic)

    @contextmanager
    def waiting(self, *topics: str) -> Iterator[threading.Event]:
        """An event that is set when one of the topics is nudged; the waiter clears it before it looks."""
        self._listen()
        wake = threading.Event()
        with self._lock:
            for topic in topics:
                self._waiters.setdefault(topic, set()).add(wake)
        try:
            yield wake
        finally:
            with self._lock:
                for topic in topics:
                    self._waiters[topic].discard(wake)
                    if not self._waiters[topic]:
                        del self._waiters[topic]

    @contextmanager
    def nudges(self, *kinds: str) -> Iterator[SimpleQueue[str]]:
        """Every topic that is nudged whose name begins with one of the kinds and a colon, as it comes."""
        self._listen()
        box = SimpleQueue[str]()
        with self._lock:
            for kind in kinds:
                self._readers.setdefault(kind, set()).add(box)
        try:
            yield box
        finally:
            with self._lock:
                for kind in kinds:
                    self._readers[kind].discard(box)

    def _listen(self) -> None:
        with self._lock:
            if self._listener is None:
                self._listener = threading.Thread(target=self._run, name="hints", daemon=True)
                self._listener.start()

    def _run(self) -> None:
        pause = threading.Event()
        while True:
            try:
                with self._listener_redis.pubsub(ignore_subscribe_messages=True) as pubsub:  # type: ignore[no-untyped-call]
                    pubsub.subscribe(CHANNEL)
                    for message in pubsub.listen():
                        self._wake(message["data"].decode())
            except redis.RedisError as error:
                log.warning("hints_interrupted", error=str(error))
                pause.wait(1)

    def _wake(self, topic: str) -> None:
        with self._lock:
            waiters = list(self._waiters.get(topic, ()))
            readers = list(self._readers.get(topic.partition(":")[0], ()))
        for wake in waiters:
            wake.set()
        for box in readers:
            box.put(topic)
