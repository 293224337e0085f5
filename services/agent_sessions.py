"""The conversation with one connected machine: what is answered to its messages, and what it is ordered to do.

Holds no socket: `routes/agents_socket.py` moves the frames. Each message is handled in an application context of its own.
"""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Iterable, Sequence
from typing import Any

from sqlalchemy import select

from agent import protocol
from agent.protocol import encode
from models.api_keys import ApiKey
from models.base import db, now
from models.training_jobs import RUNNING_STATES, Attempt, TrainingJob
from services import agents, api_keys, signs_of_life, training_jobs
from services.errors import Conflict, DomainError

HEARTBEAT_SECONDS = 15
WINDOW_BYTES = 1024 * 1024
WINDOW_RECORDS = 2000
OFFER_AGAIN_SECONDS = 10.0
NOTED_EVERY_SECONDS = 10.0
MOST_JOBS_HELD = 100
RESTART_SECONDS = 6.5  # until a web process that was asked to end is there again
RECONNECTS_A_SECOND = 95
# Of a heartbeat: what it says when something about the machine has changed.
NEWS = {"machine", "ready", "missing", "advice"}
Held = tuple[int, int]  # job, attempt


class AgentSession:
    """What one socket knows: whose it is, which attempts the machine holds, and what it was told already."""

    def __init__(self, key: ApiKey) -> None:
        self.id = str(uuid.uuid4())
        self.key_id, self.user_id = key.id, key.user_id
        self.agent_id: int | None = None
        self._held: set[Held] = set()
        self._stops_sent: dict[tuple[Held, str], float] = {}
        self._offers_sent: dict[Held, float] = {}
        self._noted_at = float("-inf")

    def handle(self, message: protocol.Message) -> list[str]:
        """Carry out one message; answers the frames to send back. Raises protocol.ProtocolError for a message out of turn."""
        kind = message["type"]
        if (kind == "hello") == (self.agent_id is not None):
            raise protocol.ProtocolError("hello comes first, and once")
        handler = getattr(self, f"_on_{kind}")
        try:
            self._note_sign_of_life(kind)
            return list(handler(message))
        except DomainError as error:
            about = {name: message[name] for name in ("job", "attempt") if name in message}
            return [encode("error", code=error.code, message=error.message, of=kind, **about)]

    def handle_together(self, messages: list[protocol.Message]) -> list[str]:
        """Carry out what `together` has put in one group: a message, or records of one attempt that are stored in one
        transaction. Raises protocol.ProtocolError."""
        return self.handle(messages[0]) if len(messages) == 1 else self._handle_records(messages)

    def orders(self) -> list[str]:
        """Frames for what the machine has to do: stops first, then at most one offer."""
        if self.agent_id is None:
            return []
        return [*self._stops(), *self._offer()]

    def is_meant_by(self, topics: set[str]) -> bool:
        """Whether one of these hints is about the machine or its key."""
        return f"agent:{self.agent_id}" in topics or f"key:{self.key_id}" in topics

    @property
    def has_jobs(self) -> bool:
        """Whether the machine holds attempts, which may have been told to stop."""
        return bool(self._held)

    def _note_sign_of_life(self, kind: str) -> None:
        """Any frame is one: on a slow line a heartbeat waits behind the records before it."""
        is_recent = time.monotonic() - self._noted_at < NOTED_EVERY_SECONDS
        if self.agent_id is None or (is_recent and kind != "heartbeat"):
            return
        self._noted_at = time.monotonic()
        signs_of_life.note(self.agent_id)

    def _on_hello(self, message: protocol.Message) -> list[str]:
        told = _all_held(message["jobs"])
        try:
            agent = agents.enrol(self.user_id, self.key_id, message, self.id)
        except Conflict as refusal:
            refused = encode("error", code=refusal.code, message=refusal.message, of="hello")
            wanted = _wanted(self.user_id, told)
            return [refused, *(_stale(held) for held in told if held not in wanted)]  # whose place another has taken
        self.agent_id = agent.id
        jobs = [self._greeted(held) for held in told]
        training_jobs.renew_all(self._held)
        has_work = training_jobs.has_open(agent.id)  # when a thousand come back at once, most have none
        if has_work:
            training_jobs.end_forgotten(agent.id, told)
        welcome = encode(
            "welcome", protocol=message["protocol"], heartbeat_seconds=HEARTBEAT_SECONDS, window_bytes=WINDOW_BYTES,
            window_records=WINDOW_RECORDS, server_time=now().isoformat(), jobs=jobs,
        )  # fmt: skip
        return [welcome, *self.orders()] if has_work else [welcome]

    def _greeted(self, held: Held) -> dict[str, Any]:
        """Resume or abandon, for one attempt that the machine says it holds."""
        if not self._take(held):
            return {"job": held[0], "attempt": held[1], "decision": "abandon", "after": {}}
        after = dict.fromkeys(protocol.STREAMS, 0) | self._stored(held)
        return {"job": held[0], "attempt": held[1], "decision": "resume", "after": after}

    def _on_heartbeat(self, message: protocol.Message) -> list[str]:
        assert self.agent_id is not None
        if NEWS & message.keys():
            agents.seen(self.agent_id, self.id, message)
        told = _all_held(message["jobs"])
        taken = self._take_all(told)
        training_jobs.renew_all(taken)
        over = [held for held in told if held not in taken]
        frames = [encode("job_stop", job=job, attempt=attempt, mode="cancel") for job, attempt in over]
        return [*frames, *self.orders()] if self._held else frames

    def _on_job_accept(self, message: protocol.Message) -> list[str]:
        held = (message["job"], message["attempt"])
        if not self._take(held):
            return [encode("job_stop", job=held[0], attempt=held[1], mode="cancel")]
        return []

    def _on_job_refuse(self, message: protocol.Message) -> list[str]:
        held = (message["job"], message["attempt"])
        if self._mine([held]):
            training_jobs.claim(*held, self._holder())
            told = {**message, "outcome": "failed"}
            training_jobs.end(*held, training_jobs.Final.of(told))
        return []

    def _on_stop_ack(self, message: protocol.Message) -> list[str]:
        held = (message["job"], message["attempt"])
        if held in self._held:
            self._stops_sent[held, message["mode"]] = float("inf")
        return []

    def _on_records(self, message: protocol.Message) -> list[str]:
        held, stream = (message["job"], message["attempt"]), message["stream"]
        if len(message["items"]) > WINDOW_RECORDS:
            raise protocol.ProtocolError(f"one message carries at most {WINDOW_RECORDS} records")
        if not self._take(held):
            raise training_jobs.stale(*held)
        through = training_jobs.record(*held, stream, message["first"], message["items"])
        return [self._stored_through(held, stream, message["first"], through)]

    def _handle_records(self, messages: list[protocol.Message]) -> list[str]:
        """Records of one attempt, stored together; one by one when something is wrong with any of them."""
        held = (messages[0]["job"], messages[0]["attempt"])
        given = dict[str, tuple[int, list[Any]]]()
        for message in messages:
            first, items = given.setdefault(message["stream"], (message["first"], []))
            items += message["items"]
        try:
            self._note_sign_of_life("records")
            if not self._take(held):
                return self.handle(messages[0])  # which says so
            stored = training_jobs.record_all(*held, given)
        except DomainError:
            return [reply for message in messages for reply in self.handle(message)]
        return [self._stored_through(held, stream, given[stream][0], stored[stream]) for stream in given]

    @staticmethod
    def _stored_through(held: Held, stream: str, first: int, through: int) -> str:
        if through < first - 1:
            return encode("resend_from", job=held[0], attempt=held[1], stream=stream, after=through)
        return encode("ack", job=held[0], attempt=held[1], stream=stream, through=through)

    def _on_job_final(self, message: protocol.Message) -> list[str]:
        held = (message["job"], message["attempt"])
        final = training_jobs.Final.of(message)
        if self._take(held):
            stored = self._stored(held)
            missing = [s for s in protocol.STREAMS if stored.get(s, 0) < _whole(message["last"].get(s, 0))]
            if missing:
                return [
                    encode("resend_from", job=held[0], attempt=held[1], stream=s, after=stored.get(s, 0))
                    for s in missing
                ]
            training_jobs.end(*held, final)
        self._let_go(held)
        return [encode("job_final_ack", job=held[0], attempt=held[1]), *self.orders()]

    def _on_pong(self, message: protocol.Message) -> list[str]:
        return []

    def _on_ignored(self, message: protocol.Message) -> list[str]:
        return []

    def _stops(self) -> list[str]:
        frames, mine = [], self._mine(self._held)
        for held in sorted(self._held):
            job = mine.get(held)
            mode = "cancel" if job is None else training_jobs.order_of(job)
            if mode and time.monotonic() - self._stops_sent.get((held, mode), float("-inf")) > OFFER_AGAIN_SECONDS:
                self._stops_sent[held, mode] = time.monotonic()
                frames.append(encode("job_stop", job=held[0], attempt=held[1], mode=mode))
            if job is None:
                self._let_go(held)
        return frames

    def _let_go(self, held: Held) -> None:
        self._held.discard(held)
        self._stops_sent = {stop: at for stop, at in self._stops_sent.items() if stop[0] != held}

    def _offer(self) -> list[str]:
        waiting = db.session.scalar(
            select(TrainingJob)
            .where(TrainingJob.agent_id == self.agent_id, TrainingJob.state == "queued")
            .order_by(TrainingJob.id)
            .limit(1)
        )
        if waiting is None:
            return []
        held = (waiting.id, waiting.attempt)
        if time.monotonic() - self._offers_sent.get(held, float("-inf")) < OFFER_AGAIN_SECONDS:
            return []
        self._offers_sent[held] = time.monotonic()
        try:
            return [encode("job_offer", spec=training_jobs.spec_of(waiting).as_dict())]
        except protocol.ProtocolError as error:
            self._fail_unsendable(held, str(error))
            return []

    def _fail_unsendable(self, held: Held, reason: str) -> None:
        """An offer that fits no frame would hold up everything behind it."""
        training_jobs.claim(*held, self._holder())
        message = f"This training cannot be sent to the machine: {reason}."
        training_jobs.end(
            *held, training_jobs.Final("failed", "data", message, "Order it again with shorter settings.")
        )

    def _mine(self, held: Iterable[Held]) -> dict[Held, TrainingJob]:
        """The jobs of those attempts that this machine may still work on."""
        wanted = set(held)
        if not wanted:
            return {}  # as idle machines say every 15 s: building the statement costs more than all else of it
        query = select(TrainingJob).where(
            TrainingJob.id.in_({job_id for job_id, _ in wanted}), TrainingJob.agent_id == self.agent_id,
            TrainingJob.state.in_(("queued", *RUNNING_STATES)),
        )  # fmt: skip
        jobs = {(job.id, job.attempt): job for job in db.session.scalars(query)}
        return {one: job for one, job in jobs.items() if one in wanted}

    def _take(self, held: Held) -> bool:
        """Whether this machine works on the attempt."""
        return bool(self._take_all([held]))

    def _take_all(self, told: Iterable[Held]) -> set[Held]:
        """Those attempts that this machine works on. Whoever reports about one that is queued has it: its `job_accept`
        was lost when the database was away."""
        mine = self._mine(told)
        for held in [held for held, job in mine.items() if job.state == "queued"]:
            training_jobs.claim(*held, self._holder())
        for held in mine:
            self._held.add(held)
            self._offers_sent.pop(held, None)
        return set(mine)

    def _stored(self, held: Held) -> dict[str, int]:
        attempt = db.session.scalar(select(Attempt).where(Attempt.job_id == held[0], Attempt.number == held[1]))
        known = attempt.stored if attempt else {}
        return {stream: known[stream] for stream in protocol.STREAMS if stream in known}

    def _holder(self) -> str:
        return f"agent {self.agent_id}"


def look_at(sessions: Sequence[AgentSession]) -> tuple[list[AgentSession], list[AgentSession]]:
    """Of many sessions those that have to end, since their key was revoked or another socket took over, and those for
    which there may be orders; in three statements, however many they are."""
    known = {session: session.agent_id for session in sessions if session.agent_id is not None}
    if not known:
        return [], []
    keys, speaking = api_keys.living(session.key_id for session in known), agents.speaking(known.values())
    waited_for = training_jobs.machines_waited_for(known.values())
    unwelcome, with_orders = list[AgentSession](), list[AgentSession]()
    for session, agent_id in known.items():
        if session.key_id not in keys or speaking.get(agent_id) != session.id:
            unwelcome.append(session)
        elif session.has_jobs or agent_id in waited_for:
            with_orders.append(session)
    return unwelcome, with_orders


def close(sessions: Iterable[AgentSession]) -> None:
    """The sockets of these sessions have ended."""
    agents.leave([session.id for session in sessions if session.agent_id is not None])


def pauses(count: int) -> list[float]:
    """After how many seconds each of so many machines is to come back from a restart: when the server is there again, and
    ninety-five a second in a random order."""
    places = random.sample(range(count), count)
    return [RESTART_SECONDS + (place + random.random()) / RECONNECTS_A_SECOND for place in places]  # noqa: S311 - no secret


def together(messages: list[protocol.Message]) -> list[list[protocol.Message]]:
    """The messages in their order, parted where they cannot be stored together: another kind, another attempt, a number
    that does not follow the one before it in its stream, or more records than one transaction is to take.

    A commit for each frame is most of what fifty talkative machines cost.
    """
    groups = list[list[protocol.Message]]()
    following = dict[str, int]()
    count = 0
    for message in messages:
        if message["type"] != "records":
            groups, following = [*groups, [message]], {}
            continue
        count += len(message["items"])
        last = groups[-1][-1] if groups else {}
        same = (last.get("type"), last.get("job"), last.get("attempt")) == (
            "records",
            message["job"],
            message["attempt"],
        )
        if same and count <= WINDOW_RECORDS and following.get(message["stream"], message["first"]) == message["first"]:
            groups[-1].append(message)
        else:
            groups, following, count = [*groups, [message]], {}, len(message["items"])
        following[message["stream"]] = message["first"] + len(message["items"])
    return groups


def _wanted(user_id: int, told: Iterable[Held]) -> set[Held]:
    """Those of the attempts that a machine of this member may still work on."""
    open_ = select(TrainingJob.id, TrainingJob.attempt).where(
        TrainingJob.user_id == user_id, TrainingJob.id.in_({job for job, _ in told}),
        TrainingJob.state.in_(("queued", *RUNNING_STATES)),
    )  # fmt: skip
    return {(job, attempt) for job, attempt in db.session.execute(open_)}


def _stale(held: Held) -> str:
    over = training_jobs.stale(*held)
    return encode("error", code=over.code, message=over.message, job=held[0], attempt=held[1])


def _all_held(told: list[Any]) -> list[Held]:
    """The attempts that a hello or a heartbeat lists, each once. Raises ProtocolError."""
    if len(told) > MOST_JOBS_HELD:
        raise protocol.ProtocolError(f"`jobs` lists at most {MOST_JOBS_HELD} attempts")
    return list(dict.fromkeys(_held(one) for one in told))


def _held(told: Any) -> Held:
    if not isinstance(told, dict):
        raise protocol.ProtocolError("`jobs` lists objects with `job` and `attempt`")
    return _whole(told.get("job")), _whole(told.get("attempt"))


def _whole(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**31:
        raise protocol.ProtocolError("a job, an attempt and a number are whole numbers from 0")
    return value
