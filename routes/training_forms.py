"""What is ordered and how it is asked: the schemas of a training, the wizard's fields, the page for a script."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from typing import Any, Literal

from flask import request
from pydantic import ConfigDict, Field

from agent import recipes
from models.datasets import SCRIPT_KIND, DatasetVersion
from models.training_jobs import TrainingJob
from routes.agents import shown_agents
from routes.answers import Given, Id
from routes.guards import actor
from services import base_models, datasets, price_list, subscriptions, training_jobs
from services.errors import Invalid, NotFound
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

    form_has_more = True

    name: str
    description: str = Field("", max_length=4000)
    source: Literal["dataset", "local"] = "dataset"
    dataset_id: Id | None = None
    local_path: str | None = None
    place: str = Field(pattern=r"^(server|agent:\d{1,9})$")

    def data(self, no_path: str, no_dataset: str) -> dict[str, Any]:
        """What is trained on or run, as an order names it. Raises Invalid with the page's own sentence when it is missing."""
        if self.source == "local":
            if not (self.local_path or "").strip():
                raise Invalid.of(local_path=no_path)
            return {"dataset_id": None, "local_path": self.local_path}
        if self.dataset_id is None:
            raise Invalid.of(dataset_id=no_dataset)
        return {"dataset_id": self.dataset_id, "local_path": None}


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
            **self.data("Name the file on your machine.", "No data set is chosen. Choose one, or add one first."),
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
        data = self.data(
            "Name the folder of the script on your machine.", "No script is chosen. Choose one, or upload one first."
        )
        wrong: dict[str, str] = {}
        parameters = {
            "entry": self.entry.strip(), "arguments": _words(self.arguments, "arguments", wrong), "max_minutes": self.max_minutes,
            "python": self.python.strip() if local else "", "outputs": self.outputs.split(),
            "environment": self.environment.replace(",", " ").split() if local else [],
            "checkpoints": self.checkpoints.split(), "resume": _words(self.resume, "resume", wrong),
            "values": {} if local else _values(self.dataset_id),
        }  # fmt: skip
        order = training_jobs.Order(
            name=self.name, description=self.description, recipe="script", base_model=recipes.NO_BASE_MODEL, **data,
            place=_place(self.place), parameters={name: value for name, value in parameters.items() if value},
        )  # fmt: skip
        if wrong:
            raise Invalid.of(**wrong, **training_jobs.faults(actor(), order))
        return order


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


def as_ordered(like: str | None) -> dict[str, Any]:
    """The fields of that page as they were when the member ordered the job `like`, and the values it has no field for;
    nothing without one. Raises NotFound for what is no script of theirs."""
    if not like:
        return {}
    job = training_jobs.get_for(actor(), int(like) if like.isascii() and like.isdigit() and len(like) < 10 else 0)
    if job.recipe != recipes.SCRIPT.name:
        raise NotFound("This training runs no script of your own.")
    if job.dataset_version is None:  # what a script on a machine declares is known only there
        return {"form": _ordered_fields(job), "without_field": job.parameters.get("values")}
    return {"form": _ordered_fields(job) | _ordered_values(job.dataset_version, job.parameters.get("values") or {})}


def _ordered_fields(job: TrainingJob) -> dict[str, Any]:
    """What ScriptForm would have read; the settings that the script declares are in `_ordered_values`."""
    given, version = job.parameters, job.dataset_version
    fields = {
        "name": job.name, "description": job.description, "place": f"agent:{job.agent_id}" if job.agent_id else "server",
        "source": "dataset" if version else "local", "dataset_id": version and version.dataset_id,
        "local_path": job.local_path, "entry": given.get("entry"), "python": given.get("python"),
        "arguments": shlex.join(given.get("arguments") or []), "resume": shlex.join(given.get("resume") or []),
        "outputs": " ".join(given.get("outputs") or []), "checkpoints": " ".join(given.get("checkpoints") or []),
        "environment": ", ".join(given.get("environment") or []), "max_minutes": given.get("max_minutes"),
    }  # fmt: skip
    return {name: value for name, value in fields.items() if value is not None}


def _ordered_values(version: DatasetVersion, given: dict[str, Any]) -> dict[str, str]:
    """What `_values` would have read."""
    values, _ = training_jobs.manifest_of(version).values(given)
    words = {True: "yes", False: "no"}
    return {
        f"value-{version.dataset_id}-{name}": words[value] if isinstance(value, bool) else str(value)
        for name, value in values.items()
        if value is not None
    }


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
    return {
        "allowed": allowed, "reason": reason, "credits_per_minute": minute, "plan_name": plan.display_name,
        "script_minutes": training_jobs.most_minutes(),
    }  # fmt: skip


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


def _words(text: str, field: str, wrong: dict[str, str]) -> list[str]:
    """A command line as a shell would part it; of one that cannot be parted, a sentence in `wrong`."""
    try:
        return shlex.split(text)
    except ValueError:
        wrong[field] = "A quotation mark is not closed. Close it, or put a backslash before it."
        return []


def _values(dataset_id: int | None) -> dict[str, Any]:
    """The declared settings of the chosen script: numbers where they are numbers, a ticked box is true, an empty one false."""
    prefix = f"value-{dataset_id}-"
    known = {p.name: p.kind for p in training_jobs.manifest_of(datasets.get_for(actor(), dataset_id or 0)).parameters}
    given = {name.removeprefix(prefix): text.strip() for name, text in request.form.items() if name.startswith(prefix)}
    return {
        name: text == "yes" if known.get(name) == "flag" else _as(known.get(name, "text"), text)
        for name, text in given.items()
        if text
    }
