"""Whether a job offer makes sense before anything is done with it."""

from __future__ import annotations

from typing import Any, TypeGuard

from ..protocol import JobSpec, Message, ProtocolError
from .jobs import Reply, refusal

_SPEC_TYPES: dict[str, type | tuple[type, ...]] = {
    "job": int, "attempt": int, "name": str, "recipe": str, "parameters": dict, "data": dict,
    "mapping": (dict, type(None)), "base_model": str, "base_name": str, "base_files": list, "token": str,
    "grace_seconds": (int, float),
}  # fmt: skip


def checked_spec(given: Message) -> JobSpec:
    """The spec of an offer. Its numbers become names of folders here, so their types are not taken on trust."""
    spec = JobSpec.from_dict(given)
    for name, kind in _SPEC_TYPES.items():
        value = getattr(spec, name)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise ProtocolError(f"the job offer's {name} has the wrong type")
    if spec.job < 0 or spec.attempt < 0 or not all(isinstance(file, dict) for file in spec.base_files):
        raise ProtocolError("the job offer's numbers or files make no sense")
    return spec


def not_understood(given: Message, error: ProtocolError) -> Reply:
    """The refusal of an offer that makes no sense, so that it is not made again; ProtocolError when it names no job."""
    job, attempt = given.get("job"), given.get("attempt")
    if not (_is_number(job) and _is_number(attempt)):
        raise error
    message = f"The agent on this machine does not understand the server: {error}."
    advice = "Download the agent again and start it in place of this one."
    return refusal(job, attempt, "platform", message, advice)


def _is_number(given: Any) -> TypeGuard[int]:
    return type(given) is int and given >= 0
