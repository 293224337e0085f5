"""A forwarder on loopback between an agent and its yard that can cut, stall, slow down and chop any TCP stream.

`tests/peers/proxy.py` understands HTTP and changes single requests; this one knows bytes only. One thread with an
event loop of its own; every verb may be called from any thread and has worked when it returns.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any, Literal, TypeVar

Cut = Literal["refuse", "reset", "silent"]
Result = TypeVar("Result")
PIECE = 65_536
ABORT = struct.pack("ii", 1, 0)  # SO_LINGER of zero seconds: closing sends RST


class Wire:
    """How bytes travel: `delay` seconds plus or minus `jitter`, `chop` bytes at a time; each way takes at most `rate` bytes
    a second, which all connections share."""

    def __init__(self, delay: float = 0.0, jitter: float = 0.0, rate: float = 0.0, chop: int = PIECE) -> None:
        self.delay, self.jitter, self.rate, self.chop = delay, jitter, rate, chop


class TcpProxy:
    """Forwards a port of its own to `port`. Use it as a context manager."""

    def __init__(self, port: int, seed: int = 1) -> None:
        self.target = port
        self.wire = Wire()
        self.opened: list[float] = []  # when connections came, by the monotonic clock
        self._dice = random.Random(seed)
        self._loop = asyncio.new_event_loop()
        self._flows = asyncio.Event()
        self._free_at = {"out": 0.0, "in": 0.0}  # when the line can take the next piece, each way
        self._pairs: set[tuple[asyncio.StreamWriter, asyncio.StreamWriter | None]] = set()
        self._server: asyncio.Server | None = None
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self.port = 0

    def __enter__(self) -> TcpProxy:
        self._thread.start()
        self._do(self._open())
        self._call(self._flows.set)
        return self

    def __exit__(self, *_: object) -> None:
        self._do(self._shut())
        self._call(self._loop.stop)
        self._thread.join(5)

    def cut(self, kind: Cut) -> None:
        """`refuse`: every connection is reset and no new one is taken. `reset`: every connection is reset, new ones are
        welcome. `silent`: connections stay, new ones are taken, and nothing comes through (as when packets are dropped)."""
        if kind == "silent":
            self._call(self._flows.clear)
        else:
            self._do(self._break(and_listen=kind == "reset"))

    def heal(self) -> None:
        """Everything comes through again; what was held back first."""
        self._call(self._flows.set)
        self._do(self._open())

    # --- in the loop ----------------------------------------------------------------------------------------------------

    async def _open(self) -> None:
        if self._server is None:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, limit=PIECE)
            self.port = self._server.sockets[0].getsockname()[1]

    async def _break(self, and_listen: bool) -> None:
        if not and_listen and self._server is not None:
            self._server.close()
            self._server = None
        for pair in list(self._pairs):
            for writer in filter(None, pair):
                with contextlib.suppress(OSError):
                    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, ABORT)
                writer.transport.abort()

    async def _shut(self) -> None:
        self._flows.set()
        await self._break(and_listen=False)
        await asyncio.sleep(0)
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.opened.append(time.monotonic())
        far: asyncio.StreamWriter | None = None
        pair: tuple[asyncio.StreamWriter, asyncio.StreamWriter | None] = (writer, None)
        self._pairs.add(pair)
        try:
            await self._flows.wait()
            far_reader, far = await asyncio.open_connection("127.0.0.1", self.target, limit=PIECE)
            self._pairs.discard(pair)
            pair = (writer, far)
            self._pairs.add(pair)
            await asyncio.gather(self._carry(reader, far, "out"), self._carry(far_reader, writer, "in"))
        except OSError:
            pass
        finally:
            self._pairs.discard(pair)
            for end in filter(None, pair):
                end.close()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, way: str) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(self.wire.chop):
                wire = self.wire
                pause = wire.delay + self._dice.uniform(-wire.jitter, wire.jitter)
                if wire.rate:
                    moment = self._loop.time()
                    self._free_at[way] = max(moment, self._free_at[way]) + len(data) / wire.rate
                    pause += self._free_at[way] - moment
                if pause > 0:
                    await asyncio.sleep(pause)
                await self._flows.wait()
                writer.write(data)
                await writer.drain()
        with contextlib.suppress(OSError):
            writer.write_eof()

    # --- from other threads ---------------------------------------------------------------------------------------------

    def _do(self, work: Coroutine[Any, Any, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    def _call(self, verb: Callable[[], object]) -> None:
        done = threading.Event()
        self._loop.call_soon_threadsafe(lambda: (verb(), done.set()))
        done.wait(10)
