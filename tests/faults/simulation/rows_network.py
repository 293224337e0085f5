"""Rows 11, 13, 14, 20, 27 and 30: the network is cut, flaps, crawls, doubles; machines idle; one is hostile."""

from __future__ import annotations

import asyncio
import json
import random
from typing import Any

from websockets.exceptions import ConnectionClosed

from agent import protocol
from agent.protocol import encode
from routes.agents_socket import BAD_FRAMES
from services import api_keys, training_jobs
from tests.conftest import member
from tests.factories import hello
from tests.faults.simulation.link import CUTS, Cable, End, Weather
from tests.faults.simulation.training import Script
from tests.faults.simulation.world import World


async def row_11(world: World) -> None:
    """Ten minutes without network at 100 lines a second: all there in order within 30 s, and a stop is carried out."""
    machine = await world.machine()
    job = world.order(machine, Script(steps=640, seconds=1.0, lines=100, checkpoint_every=60))
    await world.in_state(job, "training")
    machine.cut(world.rng.choice(CUTS))
    is_stopped = world.rng.random() < 0.5
    pressed = world.rng.uniform(0, 590)
    await world.sleep(pressed)
    if is_stopped:
        world.press(training_jobs.stop, job)
    await world.sleep(600 - pressed)
    assert world.job(job).disconnected_since is not None and world.state(job) == "training"
    backlog = len(world.told[(job, 1)].items["log"])
    machine.heal()
    took = await world.until(lambda: world.count_stored(job, 1, "log") >= backlog, 30, "caught up", every=0.2)
    world.note("caught up after", round(took, 1))
    await world.ends(job, states=("paused",) if is_stopped else ("completed",), within=30 if is_stopped else 120)
    assert world.job(job).attempt == 1


async def row_13(world: World) -> None:
    """Two seconds up, three down, for five minutes: something comes through every minute, without a storm."""
    machine = await world.machine()
    job = world.order(machine, Script(steps=32, seconds=10.0, lines=50))
    await world.in_state(job, "training")
    windows, last, longest, stored = 0, world.time, 0.0, 0
    while windows < 60:
        machine.cable.cut(world.rng.choice(CUTS))
        await world.sleep(3)
        machine.cable.heal()
        windows += 1
        await world.sleep(2)
        now = world.count_stored(job, 1, "log")
        if now > stored:
            longest, last, stored = max(longest, world.time - last), world.time, now
    assert max(longest, world.time - last) <= 60, f"nothing came through for {longest:.0f} s"
    assert len(machine.cable.handshakes) <= windows + 1
    await world.ends(job)
    assert world.job(job).attempt == 1


async def row_14(world: World) -> None:
    """2 s ± 1 s of delay at 64 kbit/s with a backlog: heartbeats are not starved, the lease is never lost."""
    machine = await world.machine()
    job = world.order(machine, Script(steps=70, seconds=5.0, lines=world.rng.choice((100, 1000))))
    await world.in_state(job, "training")
    machine.cut("reject")
    await world.sleep(world.rng.uniform(60, 150))
    machine.cable.weather = Weather(latency=1.0, jitter=2.0, bandwidth=8_000.0)
    machine.heal()
    await world.until(lambda: world.is_connected(machine), 30, "back")
    await world.until(lambda: world.job(job).disconnected_since is None, 30, "shown running")
    connections = len(machine.cable.handshakes)
    end = world.time + 100
    while world.time < end:
        await world.sleep(1)
        assert world.job(job).disconnected_since is None, "shown as away while its frames come in"
    assert len(machine.cable.handshakes) == connections, "the connection was given up"
    machine.cable.weather = Weather()
    await world.ends(job, within=600)
    assert world.job(job).attempt == 1


async def row_20(world: World) -> None:
    """Every frame three times and out of order: what is stored is what would be stored without."""
    machine = await world.machine()
    machine.cable.weather = Weather(copies=3, overtaking=world.rng.choice((0.2, 1.0, 3.0)))
    job = world.order(machine, Script(steps=15, seconds=1.0, lines=10))
    await world.sleep(world.rng.uniform(2, 6))
    is_stopped = world.rng.random() < 0.3
    if is_stopped:
        world.press(training_jobs.stop, job)
    await world.ends(job, states=("paused",) if is_stopped else ("completed",), within=200)
    assert world.job(job).attempt == 1
    assert len(machine.cable.handshakes) == 1, "the connection was given up"


async def row_27(world: World) -> None:
    """Idle agents: nobody is dropped, nobody is thought away."""
    crowd = [await world.machine(f"machine-{number}") for number in (1, 2)]
    world.site.kill_clock()
    world.site.start_clock(factor=6)
    await world.sleep(600)
    assert all(map(world.is_connected, crowd)) and all(len(one.cable.handshakes) == 1 for one in crowd)
    beats = sum("> heartbeat" in line for line in world.history)
    assert beats >= 2 * 600 / 15


async def row_30(world: World) -> None:
    """A hostile agent: closed within 5 s of its third bad frame, and nobody else notices."""
    machine = await world.machine()
    job = world.order(machine, Script(steps=10, seconds=1.0))
    await world.in_state(job, "training")
    with world.site.at_work():
        _, key = api_keys.create(member("bob"), "key of the hostile", "agent")
    hostile = Cable(random.Random(world.rng.random()))
    for _ in range(world.rng.randint(1, 4)):
        end = await hostile.connect(key, world.site)
        if world.rng.random() < 0.7:
            await end.send(json.dumps(hello("machine of the hostile", jobs=[{"job": job, "attempt": 1}])))
        answers = asyncio.create_task(_read(end))
        for _ in range(world.rng.randint(1, 8)):
            await _send(end, _harm(world.rng, job))
        for _ in range(BAD_FRAMES):
            await _send(end, _nonsense(world.rng, job))
        await world.sleep(5)
        told = [protocol.decode(frame, "server") for frame in await _stopped(answers)]
        assert not any(one["type"] == "ack" for one in told), "a foreign job was acknowledged"
        assert all(
            one["decision"] == "abandon" for frame in told if frame["type"] == "welcome" for one in frame["jobs"]
        )
        assert end.is_closed, "it is still connected"
    await world.ends(job, within=60)
    assert world.job(job).attempt == 1 and len(machine.cable.handshakes) == 1


async def _send(end: End, frame: str) -> None:
    if not end.is_closed:
        await end.send(frame)


def _nonsense(rng: random.Random, job: int) -> str:
    """What is no message."""
    bad: list[Any] = [
        "{", json.dumps([1, 2]), json.dumps({"type": "records", "job": job}), json.dumps({"type": "ack", "through": 1}),
        json.dumps({"type": "hello", "jobs": []}), "x" * 100_000, "[" * 50_000,
        json.dumps({"type": "heartbeat", "jobs": [{"job": -1}]}),
    ]  # fmt: skip
    return str(rng.choice(bad))


def _harm(rng: random.Random, job: int) -> str:
    """What is a message and means harm: to speak for somebody else's job."""
    harm = [
        encode("records", job=job, attempt=1, stream="log", first=1, items=[{"text": "forged"}]),
        encode("job_final", job=job, attempt=1, outcome="completed", last={}, log_bytes=0, log_sha256=""),
        encode("job_refuse", job=job, attempt=1, cause="data", message="no", advice="no"),
        encode("job_accept", job=job, attempt=1),
        encode("stop_ack", job=job, attempt=1, mode="cancel"),
    ]
    return rng.choice(harm)


async def _read(end: End) -> list[str]:
    frames: list[str] = []
    try:
        while True:
            frames.append(await end.recv())
    except (ConnectionClosed, asyncio.CancelledError):
        return frames


async def _stopped(task: asyncio.Task[list[str]]) -> list[str]:
    task.cancel()
    return await task
