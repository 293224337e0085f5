"""How Stripe is asked and how it refuses: nested form parameters in, error bodies out.

Wire format: https://docs.stripe.com/api/errors and the form encoding of stripe-python (`stripe/_encode.py`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from urllib.parse import parse_qsl

LIMIT = 100  # objects in one page of a list


class Refused(Exception):
    """An error answer. `kept`: what was written before it stays, as a declined payment stays on record."""

    def __init__(
        self, status: int, message: str, *, kind: str = "invalid_request_error", code: str | None = None,
        param: str | None = None, kept: bool = False, **more: Any,
    ) -> None:  # fmt: skip
        super().__init__(message)
        self.status, self.message, self.code, self.kept = status, message, code, kept
        given = {"code": code, "message": message, "param": param, "type": kind, **more}
        self.body = {"error": {name: value for name, value in given.items() if value is not None}}


def invalid(message: str, param: str | None = None, code: str | None = None) -> Refused:
    """The refusal of something asked for wrongly: 400."""
    return Refused(400, message, code=code, param=param)


def no_such(kind: str, id: str, param: str, status: int = 404) -> Refused:
    """The refusal of an unknown id: 404 in an address, 400 in a parameter."""
    words = kind.replace("_", " ").replace(".", " ")
    return Refused(status, f"No such {words}: '{id}'", code="resource_missing", param=param)


class Params:
    """The parameters of one request, or a nested part of them; `path` is how Stripe names that part."""

    def __init__(self, values: Any, path: str = "") -> None:
        if not isinstance(values, dict):
            raise invalid(f"Invalid object: {path} must have named parts.", path)
        self.values: dict[str, Any] = values
        self._path = path

    def __contains__(self, name: str) -> bool:
        return name in self.values

    def param(self, name: str) -> str:
        """The full name of one of these, such as `items[0][price]`."""
        return f"{self._path}[{name}]" if self._path else name

    def only(self, known: Iterable[str]) -> None:
        """Refuse what is not in `known`: a parameter that would be ignored in silence is a trap."""
        for name in self.values:
            if name not in known:
                raise invalid(
                    f"Received unknown parameter: {self.param(name)}. The simulated gateway takes "
                    f"{', '.join(sorted(known)) or 'none'} here.",
                    self.param(name), "parameter_unknown",
                )  # fmt: skip

    def text(self, name: str) -> str | None:
        """A text, None when it was not given."""
        value = self.values.get(name)
        if value is not None and not isinstance(value, str):
            raise invalid(f"Invalid string: {self.param(name)} must be a single value.", self.param(name))
        return value

    def need(self, name: str) -> str:
        """A text that must be there. Raises Refused 400 parameter_missing."""
        value = self.text(name)
        if not value:
            raise invalid(f"Missing required param: {self.param(name)}.", self.param(name), "parameter_missing")
        return value

    def whole(self, name: str, least: int | None = None) -> int | None:
        """A whole number of at least `least`."""
        value = self.text(name)
        if value is None:
            return None
        if not value.removeprefix("-").isdecimal() or len(value) > 15:
            raise invalid(f"Invalid integer: {value}", self.param(name), "parameter_invalid_integer")
        if least is not None and int(value) < least:
            message = f"This value must be greater than or equal to {least}."
            raise invalid(message, self.param(name), "parameter_invalid_integer")
        return int(value)

    def need_whole(self, name: str, least: int | None = None) -> int:
        """A whole number that must be there."""
        self.need(name)
        return self.whole(name, least) or 0

    def flag(self, name: str, default: bool = False) -> bool:
        """`true` or `false`."""
        value = self.text(name)
        if value not in (None, "true", "false"):
            raise invalid(f"Invalid boolean: {value}", self.param(name))
        return default if value is None else value == "true"

    def one_of(self, name: str, choices: Iterable[str], default: str) -> str:
        """One of a few words."""
        value = self.text(name) or default
        if value not in (known := tuple(choices)):
            raise invalid(f"Invalid {self.param(name)}: must be one of {', '.join(known)}", self.param(name))
        return value

    def part(self, name: str) -> Params:
        """A nested part; empty when it was not given."""
        return Params(self.values.get(name) or {}, self.param(name))

    def parts(self, name: str) -> list[Params]:
        """A list of nested parts."""
        value = self.values.get(name) or []
        if not isinstance(value, list):
            raise invalid(f"Invalid array: {self.param(name)}", self.param(name))
        return [Params(each, f"{self.param(name)}[{place}]") for place, each in enumerate(value)]

    def texts(self, name: str) -> list[str]:
        """A list of texts."""
        value = self.values.get(name) or []
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            raise invalid(f"Invalid array: {self.param(name)}", self.param(name))
        return value

    def metadata(self, before: dict[str, str] | None = None) -> dict[str, str]:
        """`metadata` laid over what was there: an empty value unsets its key, an empty text unsets all."""
        if self.values.get("metadata") == "":
            return {}
        after = {**(before or {}), **{key: str(value) for key, value in self.part("metadata").values.items()}}
        return {key: value for key, value in after.items() if value != ""}


def parse(encoded: str) -> Params:
    """Read a form-encoded body or query: `a[b][0][c]=v` and `a[]=v`."""
    root: dict[str, Any] = {}
    for name, value in parse_qsl(encoded, keep_blank_values=True):
        *parts, last = name.replace("]", "").split("[")
        node = root
        for part in parts:
            node = node.setdefault(part or str(len(node)), {})
            if not isinstance(node, dict):
                raise invalid(f"Invalid parameter: {name}", name)
        node[last or str(len(node))] = value
    return Params({name: _listed(name, value) for name, value in root.items()})


def _listed(name: str, node: Any) -> Any:
    """Turn what has the keys 0, 1, 2 into a list; keys of metadata are the caller's own."""
    if not isinstance(node, dict):
        return node
    if name != "metadata" and node and all(key.isdecimal() for key in node):
        return [_listed("", node[key]) for key in sorted(node, key=int)]
    return {key: value if name == "metadata" else _listed(key, value) for key, value in node.items()}
