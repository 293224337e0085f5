"""Catalogues: what a price list may say, the default one, and reading one from a file.

Pure: nothing here knows the database. `services/price_list.py` puts a catalogue there.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from services.config import ACCELERATORS
from services.errors import Invalid

MB, GB = 10**6, 10**9
MOST = 1_000_000_000
NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,39}")
PLAN_FIELDS = (
    "name", "display_name", "price_cents", "yearly_cents", "monthly_credits", "features", "limits",
)  # fmt: skip
QUEUES = (None, "normal", "high", "first")  # TOML has no null: there it is "none"
TRAINING_MINUTE_CPU = "training_minute:cpu"

LIMITS: dict[str, str] = {
    "upload_bytes": "One upload",
    "models": "Models kept",
    "private_models": "Private models",
    "server_jobs": "Server jobs at once",
    "accelerators": "Server accelerators",
    "image_side": "Largest image side",
    "queue": "Queue",
    "v1_api": "OpenAI-compatible API",
    "v1_requests": "API requests a minute",
}


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**53


LIMIT_VALUES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "upload_bytes": (_is_count, "a number of bytes"),
    "models": (_is_count, "a whole number from 0"),
    "private_models": (lambda value: isinstance(value, bool), "true or false"),
    "server_jobs": (_is_count, "a whole number from 0"),
    "accelerators": (
        lambda value: isinstance(value, list) and all(one in ACCELERATORS for one in value),
        f"a list of accelerator classes: {', '.join(ACCELERATORS)}",
    ),
    "image_side": (_is_count, "a number of pixels"),
    "queue": (lambda value: value in QUEUES, "normal, high or first, or none"),
    "v1_api": (lambda value: value in ("own_machines", "all"), "own_machines or all"),
    "v1_requests": (_is_count, "requests a minute"),
}

DEFAULT: dict[str, Any] = {
    "plans": [
        {
            "name": "free", "display_name": "Free", "price_cents": 0, "yearly_cents": None, "monthly_credits": 20,
            "features": ["Unlimited training on your own machines", "Live curves and logs", "Your models to download"],
            "limits": {"upload_bytes": 100 * MB, "models": 1, "private_models": False, "server_jobs": 0,
                       "accelerators": [],
                       "image_side": 512, "queue": None, "v1_api": "own_machines", "v1_requests": 20},
        },
        {
            "name": "basic", "display_name": "Basic", "price_cents": 999, "yearly_cents": 9990, "monthly_credits": 200,
            "features": ["Everything in Free", "Training on the server", "Private models"],
            "limits": {"upload_bytes": 2 * GB, "models": 10, "private_models": True, "server_jobs": 1,
                       "accelerators": ["cpu"],
                       "image_side": 1024, "queue": "normal", "v1_api": "all", "v1_requests": 60},
        },
        {
            "name": "pro", "display_name": "Pro", "price_cents": 2999, "yearly_cents": 29990, "monthly_credits": 1000,
            "features": ["Everything in Basic", "Three server jobs at once", "Ahead in the queue"],
            "limits": {"upload_bytes": 20 * GB, "models": 100, "private_models": True, "server_jobs": 3,
                       "accelerators": ["cpu", "cuda"],
                       "image_side": 1536, "queue": "high", "v1_api": "all", "v1_requests": 300},
        },
        {
            "name": "enterprise", "display_name": "Enterprise", "price_cents": 9999, "yearly_cents": 99990,
            "monthly_credits": 5000,
            "features": ["Everything in Pro", "Ten server jobs at once", "First in the queue"],
            "limits": {"upload_bytes": 200 * GB, "models": 1000, "private_models": True, "server_jobs": 10,
                       "accelerators": ["cpu", "cuda"],
                       "image_side": 2048, "queue": "first", "v1_api": "all", "v1_requests": 1200},
        },
    ],
    "packs": [
        {"credits": 100, "price_cents": 1000}, {"credits": 250, "price_cents": 2000},
        {"credits": 500, "price_cents": 3500}, {"credits": 1000, "price_cents": 6000},
    ],
    "prices": {"message": 1, "image": 1, TRAINING_MINUTE_CPU: 1, "training_minute:cuda": 4},
}  # fmt: skip


def read(path: Path) -> dict[str, Any]:
    """What a catalogue file (TOML) says: tables `plans` and `packs`, table `prices`. Raises Invalid, OSError."""
    try:
        return tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Invalid(f"{path.name} is not TOML: {error}.") from None


def checked(catalogue: Any) -> tuple[list[dict[str, Any]], list[dict[str, Any]], dict[str, int]]:
    """The plans, packs and prices of a catalogue, complete. Raises Invalid."""
    if not isinstance(catalogue, dict) or not isinstance(catalogue.get("plans"), list):
        raise Invalid("A catalogue needs `plans`, one table for each plan.")
    plans = [_complete(given, number) for number, given in enumerate(catalogue["plans"], start=1)]
    packs, prices = catalogue.get("packs", []), {**DEFAULT["prices"], **catalogue.get("prices", {})}
    for number, given in enumerate(packs, start=1):
        if not isinstance(given, dict) or set(given) != {"credits", "price_cents"}:
            raise Invalid(f"Pack {number} of the catalogue must have exactly the fields `credits` and `price_cents`.")
        for name in ("credits", "price_cents"):
            if type(given[name]) is not int or not 1 <= given[name] <= MOST:
                raise Invalid(f"Pack {number}: `{name}` must be a whole number from 1 to {MOST:,}.")
    for action, credits in prices.items():
        if type(credits) is not int or not 0 <= credits <= MOST:
            raise Invalid(f"The price of `{action}` must be a whole number from 0 to {MOST:,}.")
    for what, names in (("plan", [one["name"] for one in plans]), ("pack", [one["credits"] for one in packs])):
        for name in names:
            if names.count(name) > 1:
                raise Invalid(f"The catalogue has the {what} {name} twice.")
    if not any(given["price_cents"] == 0 for given in plans):
        raise Invalid("The catalogue needs a plan that costs nothing: everybody starts on it.")
    return plans, packs, prices


def _complete(given: Any, number: int) -> dict[str, Any]:
    where = f"Plan {number} of the catalogue"
    if not isinstance(given, dict):
        raise Invalid(f"{where} must be a table.")
    whole = {"yearly_cents": None, "features": [], **given}
    if isinstance(whole.get("limits"), dict) and whole["limits"].get("queue") == "none":
        whole["limits"] = {**whole["limits"], "queue": None}
    check_plan(whole, where)
    return whole


def check_plan(given: dict[str, Any], where: str) -> None:
    """Raise Invalid unless `given` is a whole plan; `where` begins the sentence."""
    if set(given) != set(PLAN_FIELDS):
        faulty = set(given) ^ set(PLAN_FIELDS)
        raise Invalid(
            f"{where} must have exactly the fields {', '.join(PLAN_FIELDS)}; look at {', '.join(sorted(faulty))}."
        )
    where = f"{where} ({given['name']})"
    if not isinstance(given["name"], str) or not NAME.fullmatch(given["name"]):
        raise Invalid(
            f"{where}: `name` takes lower-case letters, digits and hyphens, at most 40.",
            {"name": "It takes lower-case letters, digits and hyphens, at most 40."},
        )
    if not isinstance(given["display_name"], str) or not 1 <= len(given["display_name"].strip()) <= 80:
        raise Invalid(f"{where}: `display_name` needs 1 to 80 characters.", {"display_name": "1 to 80 characters."})
    for name in ("price_cents", "monthly_credits", "yearly_cents"):
        value = given[name]
        if (value is None and name == "yearly_cents") or (type(value) is int and 0 <= value <= MOST):
            continue
        raise Invalid(f"{where}: `{name}` must be a whole number from 0 to {MOST:,}.", {name: "A whole number from 0."})
    if not given["price_cents"] and given["yearly_cents"]:
        raise Invalid(
            f"{where}: a plan that is free by the month is free by the year.", {"yearly_cents": "Leave it out."}
        )
    if not isinstance(given["features"], list) or not all(isinstance(one, str) for one in given["features"]):
        raise Invalid(f"{where}: `features` must be a list of texts.", {"features": "A list of texts."})
    if not isinstance(given["limits"], dict) or set(given["limits"]) != set(LIMITS):
        raise Invalid(f"{where}: `limits` must have exactly the fields {', '.join(LIMITS)}.", {"limits": "Incomplete."})
    for name, (allowed, words) in LIMIT_VALUES.items():
        if not allowed(given["limits"][name]):
            raise Invalid(f"{where}: the limit `{name}` must be {words}.", {f"limits.{name}": f"It must be {words}."})
