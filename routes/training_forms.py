"""What is ordered and how it is asked: the schemas of a training, the wizard's fields, the page for a script."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from typing import Any, Literal

from flask import request
from pydantic import ConfigDict, Field

from agent import recipes
from models.datasets import SCRIPT_KIND
from routes.agents import shown_agents
from routes.answers import Given, Id
from routes.guards import actor
from services import base_models, datasets, price_list, subscriptions, training_jobs
from services.errors import Invalid
from services.gateways import gateways


class Place(Given):
    model_config = ConfigDict(extra="forbid", strict=True)
    agent: Id


class NewJob(Given):
    name: str
    description: str = Field("", max_length=4000)
    recipe: str = "language"
    dataset_id: Id | None = None
    local_path: str | None = None
    mapping: dict[str, str] | None = None
    base_model: str = base_models.YARD_TINY
    place: Literal["server"] | Place
    parameters: dict[str, Any] = {}

    def order(self) -> training_jobs.Order:
        place = "server" if isinstance(self.place, str) else {"agent": self.place.agent}
        return training_jobs.Order(**{**self.model_dump(exclude={"place"}), "place": place})


class OrderForm(Given):
    """What both pages ask."""

    name: str
    description: str = Field("", max_length=4000)
    source: Literal["dataset", "local"] = "dataset"
    dataset_id: Id | None = None
    local_path: str | None = None
    place: str = Field(pattern=r"^(server|agent:\d{1,9})$")


class JobForm(OrderForm):
    """The wizard's fields; they say the same as NewJob."""

    map_prompt: str = ""
    map_completion: str = ""
    map_text: str = ""
    base_model: str = base_models.YARD_TINY
    base_folder: str = ""

    def order(self) -> training_jobs.Order:
        local = self.source == "local"
        mapping = {"prompt": self.map_prompt, "completion": self.map_completion, "text": self.map_text}
        return training_jobs.Order(
            name=self.name, description=self.description, recipe="language",
            dataset_id=None if local else self.dataset_id, local_path=self.local_path if local else None,
            mapping={target: column for target, column in mapping.items() if column} or None if local else None,
            base_model=self.base_folder if self.base_model == "other" else self.base_model,
            place=_place(self.place),
            parameters=_form_parameters(),
        )  # fmt: skip


class ScriptForm(OrderForm):
    """The fields of the page for a script; they say the same as NewJob. `value-<data set>-<name>` are the declared ones."""

    entry: str = ""
    arguments: str = ""
    max_minutes: int = 60
    python: str = ""
    environment: str = ""
    outputs: str = ""
    checkpoints: str = ""
    resume: str = ""

    def order(self) -> training_jobs.Order:
        local = self.source == "local"
        parameters = {
            "entry": self.entry.strip(), "arguments": _words(self.arguments), "max_minutes": self.max_minutes,
            "python": self.python.strip() if local else "", "outputs": self.outputs.split(),
            "environment": self.environment.replace(",", " ").split() if local else [],
            "checkpoints": self.checkpoints.split(), "resume": _words(self.resume, "resume"),
            "values": {} if local else _values(self.dataset_id),
        }  # fmt: skip
        return training_jobs.Order(
            name=self.name, description=self.description, recipe="script", base_model=recipes.NO_BASE_MODEL,
            dataset_id=None if local else self.dataset_id, local_path=self.local_path if local else None,
            place=_place(self.place), parameters={name: value for name, value in parameters.items() if value},
        )  # fmt: skip


def wizard() -> dict[str, Any]:
    """What the wizard for a language model offers."""
    user = actor()
    return {
        "datasets": [_dataset(version) for version in _kept(user) if version.dataset.kind != SCRIPT_KIND],
        "base_models": base_models.choices(user), "agents": shown_agents(user),
        "parameters": [asdict(parameter) for parameter in recipes.LANGUAGE.parameters], "server": _server(user),
    }  # fmt: skip


def script_page() -> dict[str, Any]:
    """What the page for a script of one's own shows: uploaded scripts with the settings they declare, machines, prices."""
    user = actor()
    scripts = [_script(version) for version in _kept(user) if version.dataset.kind == SCRIPT_KIND]
    return {
        "scripts": scripts, "agents": shown_agents(user), "server": _server(user),
        "parameters": {parameter.name: asdict(parameter) for parameter in recipes.SCRIPT.parameters},
    }  # fmt: skip


def _script(version: Any) -> dict[str, Any]:
    manifest = training_jobs.manifest_of(version)
    return {
        **_dataset(version), "scripts": version.quality["scripts"], "entry": manifest.entry,
        "arguments": shlex.join(manifest.arguments), "settings": [asdict(parameter) for parameter in manifest.parameters],
    }  # fmt: skip


def _kept(user: Any) -> list[Any]:
    return datasets.list_for(user, limit=200)


def _server(user: Any) -> dict[str, Any]:
    plan = subscriptions.current(user).plan
    minute = price_list.price(f"training_minute:{gateways().settings.accelerator}")
    allowed = bool(plan.limits["server_jobs"])
    reason = (
        None if allowed else "Training on the server needs a paid plan. On your own machine it is free and unlimited."
    )
    return {"allowed": allowed, "reason": reason, "credits_per_minute": minute, "plan_name": plan.display_name}


def _dataset(version: Any) -> dict[str, Any]:
    return {
        "id": version.dataset_id, "name": version.dataset.name, "kind": version.dataset.kind, "format": version.format,
        "rows": version.rows, "tokens": version.tokens, "version": version.version,
    }  # fmt: skip


def _form_parameters() -> dict[str, Any]:
    """The settings of the wizard as numbers where the catalogue says so; what cannot be one is left for its check."""
    length = request.form.get("length", "epochs")
    given: dict[str, Any] = {}
    for parameter in recipes.LANGUAGE.parameters:
        text = request.form.get(parameter.name, "").strip()
        if not text or (parameter.name in ("epochs", "max_steps") and parameter.name != length):
            continue
        if parameter.name == "lora_rank" and request.form.get("method") == "full":
            continue
        given[parameter.name] = _as(parameter.kind, text)
    return given


def _as(kind: str, text: str) -> Any:
    try:
        return {"int": int, "float": float, "flag": bool}.get(kind, str)(text)
    except ValueError:
        return text


def _place(text: str) -> str | dict[str, int]:
    return "server" if text == "server" else {"agent": int(text.removeprefix("agent:"))}


def _words(text: str, field: str = "arguments") -> list[str]:
    """A command line as a shell would part it."""
    try:
        return shlex.split(text)
    except ValueError:
        raise Invalid.of(**{field: "A quotation mark is not closed. Close it, or put a backslash before it."}) from None


def _values(dataset_id: int | None) -> dict[str, Any]:
    """The declared settings of the chosen script: numbers where they are numbers, a ticked box is true."""
    prefix = f"value-{dataset_id}-"
    known = {p.name: p.kind for p in training_jobs.manifest_of(datasets.get_for(actor(), dataset_id or 0)).parameters}
    given = {name.removeprefix(prefix): text.strip() for name, text in request.form.items() if name.startswith(prefix)}
    return {
        name: True if known.get(name) == "flag" else _as(known.get(name, "text"), text)
        for name, text in given.items()
        if text
    }
