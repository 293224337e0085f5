"""The kinds of refusal; `routes/errors.py` turns each into an answer once.

DomainError          a sentence for the person, a code for the machine      HTTP
  NotFound           also for "not yours"                                   404
  Unauthorized       nobody, or nobody known                                401
  Forbidden          yours to see, not to do                                403
  Invalid            something given is wrong; `fields` says what           422 (or 413, 415, 400: its subclasses)
  Conflict           the state has moved on                                 409
  PaymentNeeded      credits or a plan are missing                          402
  Unavailable        a foreign system is away; try again                    503
Whatever else is raised is a bug.
"""

from __future__ import annotations

from typing import Any


class DomainError(Exception):
    """`message` is a whole sentence: what is wrong, where, what to do. `details` is added to the JSON answer."""

    code = "error"

    def __init__(self, message: str, *, code: str | None = None, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.code
        self.details = details


class NotFound(DomainError):
    code = "not_found"

    def __init__(self, message: str = "There is nothing here, or it is not yours.", **details: Any) -> None:
        super().__init__(message, **details)


class Unauthorized(DomainError):
    code = "unauthorized"


class Forbidden(DomainError):
    code = "forbidden"


class Invalid(DomainError):
    """`fields` maps a field's name to the sentence shown beside it."""

    code = "invalid"

    def __init__(
        self, message: str, fields: dict[str, str] | None = None, *, code: str | None = None, **details: Any
    ) -> None:
        super().__init__(message, code=code, **details)
        self.fields = fields or {}

    @classmethod
    def of(cls, **fields: str) -> Invalid:
        """A refusal that is wholly about fields; the message repeats the first sentence."""
        return cls(next(iter(fields.values())), fields)


class TooLarge(Invalid):
    code = "too_large"


class Unsupported(Invalid):
    code = "unsupported"


class Forged(Invalid):
    """Not from the one it claims to be from, or not whole; becomes 400."""

    code = "forged"


class Conflict(DomainError):
    code = "conflict"


class TooBusy(DomainError):
    code = "too_busy"


class PaymentNeeded(DomainError):
    code = "payment_needed"


class Unavailable(DomainError):
    code = "unavailable"
