"""Single requests to the one server: no redirect, no other host, and every answer told apart from a broken one."""

from __future__ import annotations

import contextlib
import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from ..addresses import is_loopback

MAX_ANSWER = 1 << 20
_TRY_AGAIN = (408, 423, 425, 429, 500, 502, 503, 504, 507, 509)


class Refused(Exception):
    """The server says no, and asking again would not change it: `status` is the HTTP status, `code` what the server calls
    the reason, `str()` its sentence."""

    def __init__(self, status: int, message: str, code: str = "") -> None:
        super().__init__(message)
        self.status, self.code = status, code


class Trouble(Exception):
    """It did not work this time; `str()` says why. `pause` is what the server asked to wait, in seconds."""

    def __init__(self, message: str, pause: float | None = None) -> None:
        super().__init__(message)
        self.pause = pause


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_args: Any, **_kwargs: Any) -> None:
        return None


@dataclass(frozen=True)
class Server:
    """One server and the token that opens it. `seconds` is how long a request may go without a byte."""

    base: str
    token: str
    seconds: float = 30.0

    def request(self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None) -> Answer:
        """One request, `body` being bytes or JSON, and its whole answer. Raises Refused, or Trouble to try again."""
        with self.open(method, path, body, headers) as response:
            try:
                content = response.read(MAX_ANSWER)
            except (OSError, http.client.HTTPException) as error:
                raise Trouble(f"the connection broke ({error})") from None
            return Answer(response.status, dict(response.headers), content)

    @contextlib.contextmanager
    def open(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> Iterator[http.client.HTTPResponse]:
        """The same with the answer still to be read."""
        if not path.startswith("/api/") or any(ord(character) <= 32 for character in path) or "/../" in path:
            raise Refused(0, f"The server named an address that this agent does not open: {path[:200]}")
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        told = {"Authorization": f"Bearer {self.token}", "User-Agent": "trainyard-agent", **(headers or {})}
        if data is not None and not isinstance(body, bytes):
            told.setdefault("Content-Type", "application/json")
        request = urllib.request.Request(self.base + path, data=data, headers=told, method=method)  # noqa: S310
        try:
            response = self._opener().open(request, timeout=self.seconds)
        except urllib.error.HTTPError as error:
            with error:
                raise _problem(error) from None
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", error)
            raise Trouble(f"the server cannot be reached ({reason})") from None
        with response:
            yield response

    def _opener(self) -> urllib.request.OpenerDirector:
        handlers: list[urllib.request.BaseHandler] = [_NoRedirects()]
        if is_loopback(urlsplit(self.base).hostname):
            handlers.append(urllib.request.ProxyHandler({}))
        return urllib.request.build_opener(*handlers)


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    content: bytes

    def json(self) -> dict[str, Any]:
        """The answer as an object. Raises Trouble for anything else: a proxy's page, say."""
        with contextlib.suppress(ValueError):
            read = json.loads(self.content)
            if isinstance(read, dict):
                return read
        raise Trouble("the server's answer is not JSON")

    def offset(self) -> int:
        """The next byte an upload wants. Raises Trouble when the answer does not say."""
        text = next((value for name, value in self.headers.items() if name.lower() == "upload-offset"), "")
        if not text.isdigit():
            raise Trouble("the server's answer has no Upload-Offset")
        return int(text)


def _problem(error: urllib.error.HTTPError) -> Exception:
    message, code = error.reason, ""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError, http.client.HTTPException):
        told = json.loads(error.read(MAX_ANSWER))["error"]
        message, code = str(told["message"]), str(told["code"])
    if error.code in _TRY_AGAIN:
        pause = error.headers.get("Retry-After", "")
        return Trouble(f"the server answered {error.code}: {message}", float(pause) if pause.isdigit() else None)
    return Refused(error.code, message or f"The server answered {error.code}.", code)
