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

LONGEST_NAME = 200
MOST_BYTES = 2**53


def checked_spec(given: Message) -> JobSpec:
    """The spec of an offer. Its numbers become names of folders and sums of bytes here, so nothing is taken on trust.

    Raises ProtocolError.
    """
    spec = JobSpec.from_dict(given)
    for name, kind in _SPEC_TYPES.items():
        value = getattr(spec, name)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise ProtocolError(f"the job offer's {name} has the wrong type")
    files = [spec.data, *spec.base_files]
    if not (0 <= spec.job < 2**31 and 0 <= spec.attempt < 2**31) or not all(map(_is_file, files)):
        raise ProtocolError("the job offer's numbers or files make no sense")
    if len(spec.name) > LONGEST_NAME:
        raise ProtocolError(f"the job offer's name has more than {LONGEST_NAME} characters")
    return spec


def _is_file(given: Any) -> bool:
    """An object whose size, where it has one, is a number of bytes."""
    if not isinstance(given, dict):
        return False
    size = given.get("bytes", 0)
    return type(size) is int and 0 <= size < MOST_BYTES


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
