"""The words agent and server speak over one WebSocket: JSON text frames of at most 64 KiB, one message a frame.

Delivery is at least once and storing is exactly once. Each record of a job is numbered from 1 in its stream
(`log`, `metrics`, `event`, `samples`) when it enters the spool; the server stores (job, attempt, stream, number) once,
commits, and acknowledges cumulatively. An attempt is the fencing token: whatever carries an old one is refused with
`stale_attempt`.
A message of an unknown type is an error, unless its sender has marked it with `may_ignore: true`: then it is passed over.
An order (`job_offer`, `job_stop`) is a row in the server's database first, so a lost frame is repeated at the next hello.

agent -> server
    hello        who I am, what machine this is, which jobs I hold and the last number spooled in each of their streams
    heartbeat    still here (with what changed of the machine)
    job_accept   the job's folder exists and its supervisor is started
    job_refuse   this job cannot start here; cause, message, advice
    stop_ack     the stop has reached the supervisor
    records      items `first`, `first + 1`, ... of one stream of one attempt
    job_final    how the attempt ended, and what the whole log adds up to
    pong         answer to ping

server -> agent
    welcome        intervals, window, and for every job of the hello: resume (after which numbers) or abandon
    ack            everything up to `through` is committed
    resend_from    the spool's reader goes back to just after `after`
    job_offer      start this job (see JobSpec)
    job_stop       mode `stop` (checkpoint, then end), `cancel` (end), `kill` (end now)
    job_final_ack  the end is stored; the spool may go
    ping, bye      liveness; the connection ends, come back after `retry_after` seconds
    error          `code` and a sentence; `of` names the type of the message it answers
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

PROTOCOL_VERSION = 1
OLDEST_PROTOCOL = max(1, PROTOCOL_VERSION - 2)  # this version and the two before it are spoken
MAX_FRAME_BYTES = 65_536
IGNORED = "ignored"
STREAMS = ("log", "metrics", "event", "samples")
OUTCOMES = ("completed", "stopped", "cancelled", "failed")
CAUSES = (
    "member_code",
    "data",
    "base_model",
    "platform",
    "member_machine",
    "preempted",
    "out_of_credits",
    "out_of_memory",
)

# WebSocket close codes of our own (4000-4999 are free for applications, RFC 6455 section 7.4.2).
CLOSE_BAD_MESSAGE = 4400
CLOSE_REVOKED = 4401
CLOSE_NO_HELLO = 4408
CLOSE_TAKEN = 4409
CLOSE_TOO_OLD = 4426
CLOSE_RESTART = 1012

Message = dict[str, Any]
Shapes = dict[str, dict[str, Any]]

# Field -> type; a name ending in "?" may be missing.
_TO_SERVER: Shapes = {
    "hello": {
        "protocol": int, "version": str, "agent": str, "secret": str, "boot": str, "name": str,
        "machine": dict, "ready": bool, "missing": list, "advice?": (str, type(None)), "jobs": list,
    },
    "heartbeat": {
        "jobs": list, "machine?": dict, "ready?": bool, "missing?": list, "advice?": (str, type(None)),
    },
    "job_accept": {"job": int, "attempt": int},
    "job_refuse": {"job": int, "attempt": int, "cause": str, "message": str, "advice": str},
    "stop_ack": {"job": int, "attempt": int, "mode": str},
    "records": {"job": int, "attempt": int, "stream": str, "first": int, "items": list},
    "job_final": {
        "job": int, "attempt": int, "outcome": str, "cause?": (str, type(None)), "message?": (str, type(None)),
        "advice?": (str, type(None)), "last": dict, "log_bytes": int, "log_sha256": str,
    },
    "pong": {"n": int},
}  # fmt: skip
_TO_AGENT: Shapes = {
    "welcome": {
        "protocol": int, "heartbeat_seconds": (int, float), "window_bytes": int, "window_records": int,
        "server_time": str, "jobs": list,
    },
    "ack": {"job": int, "attempt": int, "stream": str, "through": int},
    "resend_from": {"job": int, "attempt": int, "stream": str, "after": int},
    "job_offer": {"spec": dict},
    "job_stop": {"job": int, "attempt": int, "mode": str},
    "job_final_ack": {"job": int, "attempt": int},
    "ping": {"n": int},
    "bye": {"reason": str, "retry_after": (int, float)},
    "error": {"code": str, "message": str, "of?": (str, type(None)), "job?": int, "attempt?": int},
}  # fmt: skip


class ProtocolError(Exception):
    """A frame that is not a message of this protocol; `str()` is a sentence for the other side's log."""


@dataclass(frozen=True)
class JobSpec:
    """Everything a runner needs to execute one attempt of one job.

    `data` is `{"kind": "dataset", "path": "/api/...", "sha256", "bytes", "name"}` or `{"kind": "local", "path": "/abs"}`.
    `base_model` is `yard-tiny`, `model` (its files are listed in `base_files`), `folder:<path>` or a hub id.
    Paths beginning with `/api/` are relative to the server the agent was started with: a server cannot send it elsewhere.
    `token` opens exactly this attempt's data and uploads over HTTP and nothing else.
    """

    job: int
    attempt: int
    name: str
    recipe: str
    parameters: dict[str, Any]
    data: dict[str, Any]
    mapping: dict[str, str] | None
    base_model: str
    base_name: str
    base_files: list[dict[str, Any]] = field(default_factory=list)
    token: str = ""
    grace_seconds: float = 10.0

    def as_dict(self) -> Message:
        return asdict(self)

    @classmethod
    def from_dict(cls, given: Message) -> JobSpec:
        """Build a spec from a frame; fields this version does not know are left out. Raises ProtocolError."""
        try:
            return cls(**{name: given[name] for name in cls.__dataclass_fields__ if name in given})
        except TypeError as error:
            raise ProtocolError(f"the job offer lacks a field: {error}") from None


def encode(type_: str, **fields: Any) -> str:
    """Return one frame. Raises ProtocolError when it would be larger than MAX_FRAME_BYTES or holds NaN."""
    try:
        text = json.dumps({"type": type_, **fields}, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ProtocolError(f"a {type_} message cannot be written as JSON: {error}") from None
    frame = text.encode("utf-8", "replace")  # the name of a file may hold half a surrogate pair
    if len(frame) > MAX_FRAME_BYTES:
        raise ProtocolError(f"a {type_} message is larger than {MAX_FRAME_BYTES} bytes")
    return frame.decode()


def decode(text: str | bytes, sender: Literal["agent", "server"]) -> Message:
    """Read one frame that `sender` wrote and check its shape; IGNORED stands for one that a newer side lets us pass over.

    Raises ProtocolError with a sentence.
    """
    if isinstance(text, bytes):
        raise ProtocolError("frames must be text, this one is binary")
    try:
        message = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
        if "\\u" in text:
            json.dumps(message, ensure_ascii=False).encode()  # half a surrogate pair can be written nowhere
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"the frame is not JSON: {error}") from None
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        raise ProtocolError("a frame must be a JSON object with a text field `type`")
    shapes = _TO_SERVER if sender == "agent" else _TO_AGENT
    shape = shapes.get(message["type"])
    if shape is None and message.get("may_ignore") is True:
        return {"type": IGNORED}
    if shape is None:
        raise ProtocolError(f"unknown message type {message['type'][:40]!r}")
    for name, kind in shape.items():
        _check_field(message, name, kind)
    return message


def _check_field(message: Message, name: str, kind: Any) -> None:
    optional, name = name.endswith("?"), name.rstrip("?")
    if name not in message:
        if optional:
            return
        raise ProtocolError(f"{message['type']} lacks the field `{name}`")
    value = message[name]
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if not isinstance(value, kind) or (isinstance(value, bool) and bool not in kinds):
        raise ProtocolError(f"{message['type']}.{name} has the wrong type")
    if isinstance(value, int) and not isinstance(value, bool) and not 0 <= value < 2**53:
        raise ProtocolError(f"{message['type']}.{name} is out of range")
    if name == "stream" and value not in STREAMS:
        raise ProtocolError(f"there is no stream {value[:40]!r}")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:40]} is too large for a number")
    return number


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")
