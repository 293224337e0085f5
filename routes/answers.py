"""Reading what was asked and answering it: the same schema for form and JSON, the same verb, a page or JSON back."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Annotated, Any, ClassVar, TypeVar

import structlog
from flask import jsonify, redirect, render_template, request
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from werkzeug.wrappers import Response

from services import strict_json
from services.errors import (
    Conflict,
    Forbidden,
    Invalid,
    NotFound,
    PaymentNeeded,
    TooBusy,
    Unauthorized,
    Unavailable,
)
from services.gateways import gateways

log = structlog.get_logger()

Schema = TypeVar("Schema", bound=BaseModel)
STATUS_SHOWN_IN_FORM = {
    Invalid: 422,
    Conflict: 409,
    Unauthorized: 401,
    Forbidden: 403,
    NotFound: 404,
    PaymentNeeded: 402,
    TooBusy: 429,
    Unavailable: 503,
}
MOST_IN_A_LIST = 200
DEEPEST = 32  # objects and lists inside one another in a body
FIELDS_OF_PAGES = {"_idempotency_key", "next"}  # what forms carry beside what they ask for
MOST_NAMED = 20  # fields that a line of the log names
SENTENCES = {
    "missing": "This is needed.", "greater_than_equal": "Give at least {ge}.", "less_than_equal": "Give at most {le}.",
    "decimal_max_places": "Give at most {decimal_places} digits after the point.", "literal_error": "Choose {expected}.",
    "decimal_parsing": "Give a number, as 9.99.",
} | dict.fromkeys(("int_parsing", "int_type", "int_from_float", "int_parsing_size"), "Give a whole number.") | dict.fromkeys(
    ("date_from_datetime_parsing", "date_parsing", "date_type"), "Give a day, as 2026-11-21."
)  # fmt: skip


class Given(BaseModel):
    """What every schema shares: unknown fields are left out, numbers must be numbers."""

    model_config = ConfigDict(extra="ignore", str_strip_whitespace=False, allow_inf_nan=False)
    form_has_more: ClassVar[bool] = False  # fields of its form that the view reads itself

    @model_validator(mode="before")
    @classmethod
    def _refuse_text_that_is_none(cls, given: Any) -> Any:
        """NUL and lone surrogates are no text: databases and files cannot keep them."""
        if fault := _text_fault(given):
            raise ValueError(fault)
        return given


class NotJson(Invalid):
    """A body that cannot be read; becomes 400."""

    code = "not_json"


def _no_flag(given: Any) -> Any:
    if isinstance(given, bool):
        raise ValueError("This is the number of something, not true or false.")
    return given


Id = Annotated[int, BeforeValidator(_no_flag), Field(ge=1, le=2**31 - 1)]


def _text_fault(given: Any) -> str | None:
    if isinstance(given, str):
        try:
            given.encode()
        except UnicodeEncodeError:
            return "The text holds half a character (a lone surrogate). Send it as UTF-8."
        return "The text holds a NUL character. Leave it out." if "\0" in given else None
    parts = given.items() if isinstance(given, dict) else enumerate(given) if isinstance(given, list) else ()
    return next((fault for name, part in parts if (fault := _text_fault(name) or _text_fault(part))), None)


def wants_json() -> bool:
    """Whether the answer is for a program: under /api/ and /agent/, or a request that sends or asks for JSON."""
    if request.path.startswith(("/api/", "/agent/")) or request.is_json:
        return True
    accept = request.accept_mimetypes
    return accept["application/json"] > accept["text/html"]


def read(schema: type[Schema]) -> Schema:
    """The body as `schema`. Raises NotJson, or Invalid with a sentence for each field."""
    given = _json_body() if request.is_json else _form_body()
    _note_unknown(schema, given.keys())
    try:
        return schema.model_validate(given)
    except ValidationError as error:
        fields = {".".join(str(part) for part in fault["loc"]): _sentence(fault) for fault in error.errors()}
        raise Invalid(fields.pop("", None) or "Some of what was sent cannot be used.", fields) from None


def _note_unknown(schema: type[BaseModel], names: Iterable[str]) -> None:
    """A line of the log about fields that nobody asked for; whoever sends `is_admin` is worth knowing of."""
    unknown = set(names) - schema.model_fields.keys()
    if not request.is_json:
        unknown = set() if getattr(schema, "form_has_more", False) else unknown - FIELDS_OF_PAGES
    if unknown:
        named = [name[:60] for name in sorted(unknown)[:MOST_NAMED]]
        log.info("unknown_fields", fields=named, count=len(unknown), method=request.method, path=_path())


def answer(data: Any, status: int = 200, *, page: str | None = None, to: str | None = None, **context: Any) -> Response:
    """JSON for programs; for people the page, or a redirect."""
    if wants_json():
        response = jsonify(data)
        response.status_code = status
        return response
    if to is not None:
        return redirect(from_here(to), code=303)
    assert page is not None
    return Response(render_template(page, **context), status=status, mimetype="text/html")


def from_here(url: str) -> str:
    """An address of our own as a path: whoever came by another name of this server stays there, logged in."""
    public = gateways().settings.public_url
    return url.removeprefix(public) if url.startswith(f"{public}/") else url


def form(page: str, context: Callable[[], dict[str, Any]] = dict) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Show `page` again, with what was given and the sentences beside the fields, when the view refuses a form."""

    def decorate(view: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(view)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            try:
                return view(*args, **kwargs)
            except tuple(STATUS_SHOWN_IN_FORM) as error:
                if wants_json() or request.method == "GET" or "ways" in error.details:
                    raise  # for programs, or onto a page of its own
                return shown_again(page, error, **context())

        return wrapped

    return decorate


def shown_again(page: str, error: Exception, **context: Any) -> Response:
    """A refused form with its values."""
    fields = getattr(error, "fields", None) or error.details.get("fields", {})  # type: ignore[attr-defined]
    shown = {name.removeprefix("parameters."): sentence for name, sentence in fields.items()}  # as the form names them
    errors = {"": error.message, **shown}  # type: ignore[attr-defined]
    status = next(code for kind, code in STATUS_SHOWN_IN_FORM.items() if isinstance(error, kind))
    note_refusal(status, error.code)  # type: ignore[attr-defined]
    values = {name: value for name, value in request.form.items() if "password" not in name}
    html = render_template(page, form=values, errors=errors, **context)
    return Response(html, status=status, mimetype="text/html")


def note_refusal(status: int, code: str) -> None:
    """A line of the log for whoever looks after the site: what was refused, and nothing of what was sent."""
    log.info("refused", status=status, code=code, method=request.method, path=_path())


def _path() -> str:
    """The address that was asked for, without the secret that a link from a mail holds."""
    secret = (request.view_args or {}).get("token")
    return request.path.replace(secret, "...") if secret else request.path


def page_of_list() -> tuple[int, int | None]:
    """`?limit=&before=` of a list. Raises Invalid."""
    limit, before = request.args.get("limit", "50"), request.args.get("before")
    if not (limit.isascii() and limit.isdigit() and len(limit) < 10 and 1 <= int(limit)):
        raise Invalid.of(limit="`limit` is a whole number from 1 to 200.")
    if before is not None and not (before.isascii() and before.isdigit() and len(before) < 16):
        raise Invalid.of(before="`before` is the id of the last one you have.")
    return min(int(limit), MOST_IN_A_LIST), int(before) if before else None


def _json_body() -> Any:
    try:
        given = strict_json.loads(request.get_data())
    except ValueError as error:
        raise NotJson(f"The body is not JSON: {error}.") from None
    if not isinstance(given, dict):
        raise NotJson("The body must be a JSON object.")
    if not _is_flat(given, DEEPEST):
        raise NotJson(f"The body is nested more than {DEEPEST} deep.")
    return given


def _is_flat(given: Any, levels: int) -> bool:
    """Whether nothing lies deeper than so many levels."""
    if not isinstance(given, (dict, list)):
        return True
    parts = given.values() if isinstance(given, dict) else given
    return levels > 0 and all(_is_flat(part, levels - 1) for part in parts)


def _form_body() -> dict[str, Any]:
    """Fields of a form; an empty one counts as not given."""
    if request.mimetype not in ("", "application/x-www-form-urlencoded", "multipart/form-data"):
        raise NotJson(f"Send JSON (Content-Type: application/json) or a form; this was {request.mimetype[:60]}.")
    return {name: value for name, value in request.form.items() if value != ""}


def _sentence(fault: Any) -> str:
    if fault["type"] == "value_error":
        return str(fault["ctx"]["error"])
    return SENTENCES.get(fault["type"], f"{fault['msg']}.").format(**fault.get("ctx", {}))
