"""One valid example of every message of the protocol, the same for the tests of both sides."""

from __future__ import annotations

import json
from typing import Any

from agent.protocol import PROTOCOL_VERSION, Message, encode

MACHINE: Message = {
    "os": "Linux", "python": "3.11.7", "torch": "2.13.0", "gpus": [{"name": "H200", "memory_bytes": 150 * 10**9}],
    "memory_bytes": 8 * 10**9, "disk_free_bytes": 10**11, "roots": ["/home/alice/models"], "scripts": False,
}  # fmt: skip
SPEC: Message = {
    "job": 1, "attempt": 1, "name": "first", "recipe": "language", "parameters": {"method": "full", "max_steps": 10},
    "data": {"kind": "dataset", "path": "/api/agents/jobs/1/attempts/1/data", "sha256": "0" * 64, "bytes": 12,
             "name": "sums.jsonl"},
    "mapping": None, "base_model": "yard-tiny", "base_name": "yard-tiny", "base_files": [], "token": "tj_1_1_token",
    "grace_seconds": 10.0,
}  # fmt: skip
_ATTEMPT = {"job": 1, "attempt": 1}

FROM_AGENT: dict[str, Message] = {
    "hello": {
        "protocol": PROTOCOL_VERSION, "version": "0.1.0", "agent": "machine-1", "secret": "secret of machine-1",
        "boot": "boot-1", "name": "workstation", "machine": MACHINE, "ready": True, "missing": [], "advice": None,
        "jobs": [],
    },
    "heartbeat": {"jobs": [], "machine": MACHINE, "ready": False, "missing": ["torch"], "advice": "Install it."},
    "job_accept": {**_ATTEMPT},
    "job_refuse": {**_ATTEMPT, "cause": "data", "message": "Outside the folders.", "advice": "Use --root."},
    "stop_ack": {**_ATTEMPT, "mode": "stop"},
    "records": {**_ATTEMPT, "stream": "log", "first": 1, "items": [{"text": "one\n"}, {"text": "two\n"}]},
    "job_final": {
        **_ATTEMPT, "outcome": "failed", "cause": "member_code", "message": "ValueError: no.", "advice": "Look at the log.",
        "last": {"log": 2, "metrics": 0, "event": 0}, "log_bytes": 8,
        "log_sha256": "5af857fda52be8a56a44f2e1a9ca5ad9cd5d1bf4d8c2ee4a7cd4dd5a1a4c7d0d",
    },
    "pong": {"n": 7},
}  # fmt: skip
FROM_SERVER: dict[str, Message] = {
    "welcome": {
        "protocol": PROTOCOL_VERSION, "heartbeat_seconds": 15, "window_bytes": 1 << 20, "window_records": 2000,
        "server_time": "2027-03-01T12:00:00+00:00",
        "jobs": [{**_ATTEMPT, "decision": "resume", "after": {"log": 0, "metrics": 0, "event": 0}}],
    },
    "ack": {**_ATTEMPT, "stream": "log", "through": 2},
    "resend_from": {**_ATTEMPT, "stream": "log", "after": 1},
    "job_offer": {"spec": SPEC},
    "job_stop": {**_ATTEMPT, "mode": "stop"},
    "job_final_ack": {**_ATTEMPT},
    "ping": {"n": 7},
    "bye": {"reason": "restart", "retry_after": 0.5},
    "error": {**_ATTEMPT, "code": "stale_attempt", "message": "Attempt 1 of job 1 is over.", "of": "records"},
}  # fmt: skip


def example(type_: str, **fields: Any) -> Message:
    """A message as it is read from the wire, with some fields of its own."""
    return {"type": type_, **json.loads(json.dumps({**FROM_AGENT, **FROM_SERVER}[type_])), **fields}


def frame(type_: str, **fields: Any) -> str:
    """The same as it goes over the wire."""
    message = example(type_, **fields)
    return encode(message.pop("type"), **message)
