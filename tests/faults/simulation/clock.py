"""Virtual time: an event loop that leaps to its next timer, and processes in it that can be frozen.

A process is a context variable: what a task starts belongs to the process the task belongs to. Each has a monotonic
clock with an origin of its own, as machines have, and a wall clock that may be wrong and may jump.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import selectors
from collections.abc import Callable, Coroutine, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

START = datetime(2027, 3, 1, 12, 0, tzinfo=UTC)
EPOCH = 10_000.0
_process: contextvars.ContextVar[Process | None] = contextvars.ContextVar("process", default=None)


def current() -> Process | None:
    """The process whose task is running."""
    return _process.get()


class Stuck(AssertionError):
    """Nothing will ever happen any more, and somebody still waits."""


class Process:
    """Whoever runs: an agent, a web process, a horse. Its tasks stand still while it is frozen."""

    def __init__(self, name: str, origin: float = 0.0) -> None:
        self.name, self.origin = name, origin
        self.is_dead = self.is_frozen = False
        self._deferred: list[
            tuple[asyncio.Handle | None, Callable[..., Any], tuple[Any, ...], contextvars.Context]
        ] = []
        self._tasks: set[asyncio.Task[Any]] = set()

    def start(self, coroutine: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run a coroutine as part of this process."""
        context = contextvars.copy_context()
        context.run(_process.set, self)
        task = asyncio.get_running_loop().create_task(coroutine, context=context)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def kill(self) -> None:
        """The end without a word. Its tasks are unwound, but nothing they do reaches anybody any more."""
        self.is_dead = True
        self.thaw()
        for task in list(self._tasks):
            task.cancel()

    def freeze(self) -> None:
        """SIGSTOP."""
        self.is_frozen = True

    def thaw(self) -> None:
        """SIGCONT: what came due meanwhile happens now, in its order."""
        self.is_frozen = False
        deferred, self._deferred = self._deferred, []
        loop = asyncio.get_running_loop()
        for handle, callback, arguments, context in deferred:
            loop.call_soon(_unless_cancelled, handle, callback, arguments, context=context)

    def defer(self, handle: asyncio.Handle | None, callback: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
        self._deferred.append((handle, callback, arguments, contextvars.copy_context()))

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None and not self.is_dead:
            asyncio.get_running_loop().call_exception_handler({"message": self.name, "exception": task.exception()})


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop for which waiting takes no time."""

    def __init__(self) -> None:
        self.elapsed = 0.0
        self.failure: BaseException | None = None
        super().__init__(_Leaping(self))
        self.set_exception_handler(self._fail)

    def time(self) -> float:
        return EPOCH + self.elapsed

    def call_soon(self, callback: Any, *args: Any, context: contextvars.Context | None = None) -> asyncio.Handle:
        process = context.get(_process) if context is not None else _process.get()
        if process is None:
            return super().call_soon(callback, *args, context=context)
        return super().call_soon(_carry_out, process, [], callback, args, context=context)

    def call_at(
        self, when: float, callback: Any, *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        process = context.get(_process) if context is not None else _process.get()
        if process is None:
            return super().call_at(when, callback, *args, context=context)
        own: list[asyncio.Handle] = []
        handle = super().call_at(when, _carry_out, process, own, callback, args, context=context)
        own.append(handle)
        return handle

    def _fail(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.failure = self.failure or context.get("exception") or AssertionError(context["message"])


def _carry_out(process: Process, own: list[asyncio.Handle], callback: Any, arguments: tuple[Any, ...]) -> None:
    if process.is_frozen:
        process.defer(own[0] if own else None, callback, arguments)
    else:
        callback(*arguments)


def _unless_cancelled(handle: asyncio.Handle | None, callback: Any, arguments: tuple[Any, ...]) -> None:
    """What came due while the process stood still may have been called off by what came due before it."""
    if handle is None or not handle.cancelled():
        callback(*arguments)


class _Leaping(selectors.SelectSelector):
    """Nothing outside the process is ever waited for: the time until the next timer simply passes."""

    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            raise Stuck("nothing is scheduled any more")
        self._loop.elapsed += max(0.0, timeout)
        return []


class Monotonic:
    """Stands in for the module `time` wherever durations are measured."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop

    def monotonic(self) -> float:
        process = _process.get()
        return self._loop.time() + (process.origin if process else 0.0)


class WallClock:
    """What the server takes for the time of day; it may be set forward and back."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop, self.offset = loop, timedelta()

    def now(self) -> datetime:
        return START + timedelta(seconds=self._loop.elapsed) + self.offset

    def as_class(self) -> type[datetime]:
        """A `datetime` whose `now` is this clock's."""
        clock = self

        class Moved(datetime):
            @classmethod
            def now(cls, tz: Any = None) -> datetime:  # type: ignore[override]
                return clock.now()

        return Moved


@contextlib.contextmanager
def swapped(*changes: tuple[Any, str, Any]) -> Iterator[None]:
    """Set attributes, (owner, name, value), and put back what was there."""
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in changes]
    for owner, name, value in changes:
        setattr(owner, name, value)
    try:
        yield
    finally:
        for owner, name, value in reversed(before):
            setattr(owner, name, value)
