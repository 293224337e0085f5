"""Keeps the machine's secrets out of everything that leaves it.

A value counts as secret when the name of its environment variable says so (`HF_TOKEN`, `AWS_SECRET_ACCESS_KEY`) and it
has at least eight characters. Each line of it is masked, and the forms in which it would show up elsewhere: percent
encoded (with or without its slashes, in capitals or not), escaped for JSON, and in base64 at each of the three possible shifts.
"""

from __future__ import annotations

import base64
import json
import re
import urllib.parse
from collections.abc import Callable, Iterable, Mapping
from typing import Any

LEAST_LENGTH = 8
MASK = "***"

_SECRET_WORDS = {
    "APIKEY", "AUTH", "AUTHORIZATION", "COOKIE", "CREDENTIAL", "CREDENTIALS", "DSN", "KEY", "KEYS", "PASS",
    "PASSPHRASE", "PASSWD", "PASSWORD", "PAT", "PRIVATE", "PWD", "SECRET", "SECRETS", "TOKEN", "TOKENS",
}  # fmt: skip
_NOT_SECRET = {"PWD", "OLDPWD"}  # where the shell stands
_ENDINGS = ("KEY", "TOKEN", "SECRET", "PASSWORD", "PASSWD")
_WITH_PASSWORD = re.compile(r"[a-z][a-z0-9+.-]*://[^/\s:@]*:([^/\s@]+)@", re.IGNORECASE)


def secrets_in(environment: Mapping[str, str]) -> list[str]:
    """The values that must not be shown: those of variables with a secret-looking name, and passwords inside URLs."""
    found = []
    for name, value in environment.items():
        if names_a_secret(name):
            found.append(value)
        found += [match.group(1) for match in _WITH_PASSWORD.finditer(value)]
    return [value for value in found if len(value) >= LEAST_LENGTH]


def names_a_secret(name: str) -> bool:
    """Whether a variable of this name holds a secret, as far as the name tells."""
    words = re.split(r"[^A-Z0-9]+", name.upper())
    if name.upper() in _NOT_SECRET:
        return False
    return any(word in _SECRET_WORDS or word.endswith(_ENDINGS) for word in words)


class SecretMasker:
    """Replaces secrets in text that arrives in pieces, also where one begins in one piece and ends in the next."""

    def __init__(self, secrets: Iterable[str]) -> None:
        self._take({form for secret in secrets for line in _lines(secret) for form in _forms(line)})

    def _take(self, forms: set[str]) -> None:
        self._forms = sorted(forms, key=lambda form: (-len(form), form))
        self._pattern = re.compile("|".join(map(re.escape, self._forms))) if forms else None
        self._held = ""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str], *more: str) -> SecretMasker:
        return cls([*secrets_in(environment), *(value for value in more if len(value) >= LEAST_LENGTH)])

    def spelled(self, write: Callable[[str], str]) -> SecretMasker:
        """A masker that finds the secrets also as `write` writes them down."""
        other = SecretMasker(())
        written = {write(form) for form in self._forms}
        other._take({*self._forms, *(form for form in written if len(form) >= LEAST_LENGTH)})
        return other

    def feed(self, text: str) -> str:
        """What may be shown of everything fed so far; a possible beginning of a secret is held back."""
        if self._pattern is None:
            return text
        text = self._pattern.sub(MASK, self._held + text)
        held = self._possible_beginning(text)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]

    def flush(self) -> str:
        """What was held back; call it when nothing follows any more."""
        held, self._held = self._held, ""
        return held

    def mask(self, value: Any) -> Any:
        """A copy of a JSON value with the secrets in all its texts replaced."""
        if isinstance(value, str):
            return value if self._pattern is None else self._pattern.sub(MASK, value)
        if isinstance(value, list | tuple):
            return [self.mask(part) for part in value]
        if isinstance(value, dict):
            return {key: self.mask(part) for key, part in value.items()}
        return value

    def mask_cut(self, text: str, most: int) -> str:
        """A text with its secrets replaced, also one that it ends in the middle of because it was cut at `most` characters."""
        shown: str = self.mask(text)
        begun = self._possible_beginning(shown) if len(text) >= most else 0
        return shown[: len(shown) - begun] + MASK if begun >= LEAST_LENGTH else shown

    def _possible_beginning(self, text: str) -> int:
        """The length of the longest end of `text` with which a secret begins."""
        if text.endswith("\n"):
            return 0  # no secret holds a line break
        longest = 0
        for form in self._forms:
            for length in range(min(len(form) - 1, len(text)), longest, -1):
                if text.endswith(form[:length]):
                    longest = length
                    break
        return longest


def _lines(secret: str) -> list[str]:
    lines = [line.strip() for line in secret.splitlines()]
    return [line for line in lines if len(line) >= LEAST_LENGTH]


def _forms(line: str) -> set[str]:
    quoted = {urllib.parse.quote(line), urllib.parse.quote(line, safe=""), urllib.parse.quote_plus(line)}
    return {
        line,
        *quoted,
        *(re.sub("%[0-9A-F]{2}", lambda found: found[0].lower(), form) for form in quoted),
        json.dumps(line)[1:-1],
        json.dumps(line, ensure_ascii=False)[1:-1],
        *_in_base64(line),
    }


def _in_base64(line: str) -> set[str]:
    """The part of the base64 text that does not depend on what stands before and behind the secret, at each shift."""
    forms = set()
    raw = line.encode("utf-8", "surrogateescape")
    for shift in range(3):
        encoded = base64.b64encode(b"\0" * shift + raw).decode("ascii").rstrip("=")
        first = (shift * 8 + 5) // 6  # characters that hold bits of what stands before
        last = (shift + len(raw)) * 8 // 6  # the next one holds bits of what stands behind
        stable = encoded[first:last]
        if len(stable) >= LEAST_LENGTH:
            forms |= {stable, stable.replace("+", "-").replace("/", "_")}
    return forms
