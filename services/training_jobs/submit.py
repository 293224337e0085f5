"""Ordering a training: everything is checked, and priced, before a row exists or a credit moves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from agent import formats, recipes
from models.accounts import User
from models.agents import Agent
from models.base import add, transaction
from models.datasets import SCRIPT_KIND, DatasetVersion
from models.training_jobs import TrainingJob
from services import agents, base_models, credits, datasets, model_versions, price_list, subscriptions
from services.base_models import BaseModel
from services.errors import Conflict, Invalid, PaymentNeeded
from services.gateways import gateways
from services.training_jobs import attempts, dispatch, scripts
from services.training_jobs.estimate import FREE, Quote, quote

LONGEST_COLUMN = 200


@dataclass(frozen=True)
class Order:
    """What a member asks for, as it was given."""

    name: str
    recipe: str
    base_model: str
    place: str | dict[str, int]
    parameters: dict[str, Any]
    description: str = ""
    dataset_id: int | None = None
    local_path: str | None = None
    mapping: dict[str, str] | None = None


@dataclass(frozen=True)
class Checked:
    """The same with everything found that it names."""

    order: Order
    parameters: dict[str, Any]
    data: DatasetVersion | None
    agent: Agent | None
    base: BaseModel
    price_per_minute: int
    quote: Quote


def price(actor: User, order: Order) -> Quote:
    """What a training would cost. Raises what `create` would, but for missing credits."""
    return _check(actor, order).quote


def faults(actor: User, order: Order) -> dict[str, str]:
    """A sentence for each field for which `price` and `create` would refuse an order."""
    try:
        _check(actor, order)
    except Invalid as refusal:
        return refusal.fields
    return {}


def create(actor: User, order: Order) -> TrainingJob:
    """Order a training: store it, set its credits aside, and let the worker or the machine know once both are stored.

    Raises Invalid with fields, NotFound for somebody else's data or machine, PaymentNeeded without a plan or credits.
    """
    checked = _check(actor, order)
    if checked.agent is None:
        model_versions.refuse_one_too_many(actor, order.name.strip())
    with transaction():
        job = add(
            TrainingJob(
                user_id=actor.id, name=order.name.strip(), description=order.description, recipe=order.recipe,
                parameters=checked.parameters, dataset_version_id=checked.data.id if checked.data else None,
                local_path=order.local_path if checked.data is None else None,
                mapping=checked.data.mapping if checked.data else order.mapping,
                base_model=checked.base.value, base_name=checked.base.name,
                agent_id=checked.agent.id if checked.agent else None, price_per_minute=checked.price_per_minute,
                quoted=checked.quote.credits, at_most=checked.quote.at_most, facts={},
            )
        )  # fmt: skip
        attempts.open_first(job)
        if checked.agent is None:
            credits.require(attempts.hold(job))
        dispatch.let_know(job)
    return job


def _check(actor: User, order: Order) -> Checked:
    fields: dict[str, str] = {}
    if not order.name.strip() or len(order.name) > 120:
        fields["name"] = "Give the training a name of 1 to 120 characters; the model will have the same."
    if order.recipe not in recipes.CATALOG:
        raise Invalid.of(recipe=f"There is no recipe {order.recipe[:40]!r}. There are: {', '.join(recipes.CATALOG)}.")
    parameters, faults = recipes.check(order.recipe, order.parameters, order.base_model)
    fields |= {f"parameters.{name}": sentence for name, sentence in faults.items()}
    agent = _place(actor, order, fields)
    data = _data(actor, order, agent, fields)
    if agent is None and "place" not in fields:
        require_paid_plan(actor)
    if order.recipe == scripts.RECIPE:
        fields |= (
            scripts.faults(parameters, data, agent) if "place" not in fields and not fields.get("dataset_id") else {}
        )
    elif data is not None and data.dataset.kind == SCRIPT_KIND:
        fields["dataset_id"] = f"{data.dataset.name} is a script. Order it with the recipe “script”."
    if fields:
        raise Invalid(next(iter(fields.values())), fields)
    if agent is not None and order.recipe != scripts.RECIPE and order.base_model.startswith(("/", "folder:")):
        fault = agents.path_fault(agent, order.base_model.removeprefix("folder:"))
        if fault:
            raise Invalid.of(base_model=fault)
    base = _base(actor, order, agent)
    if agent is not None:
        return Checked(order, parameters, data, agent, base, 0, FREE)
    accelerator = gateways().settings.accelerator
    subscriptions.refuse_beyond(
        actor, "accelerators", f"does not train on this server's accelerator ({accelerator}).",
        lambda classes: accelerator in (classes or ["cpu"]),
    )  # fmt: skip
    per_minute = price_list.price(f"training_minute:{accelerator}")
    assert data is not None
    if order.recipe == scripts.RECIPE:
        cost = scripts.quote(parameters, per_minute)
    else:
        cost = quote(data, parameters, base.name, base.parameters, accelerator, per_minute)
    return Checked(order, parameters, data, None, base, per_minute, cost)


def _base(actor: User, order: Order, agent: Agent | None) -> BaseModel:
    if order.recipe == scripts.RECIPE:
        return BaseModel(recipes.NO_BASE_MODEL, recipes.NO_BASE_MODEL)
    return base_models.resolve(actor, order.base_model, on_server=agent is None)


def _mapping_fault(mapping: dict[str, str] | None) -> str | None:
    """What is wrong with the mapping of a file that only its machine can read."""
    unknown = set(mapping or ()) - set(formats.TARGETS)
    if unknown:
        return f"Columns cannot be mapped to {sorted(unknown)[0][:40]!r}, only to {', '.join(formats.TARGETS)}."
    if any(len(column) > LONGEST_COLUMN for column in (mapping or {}).values()):
        return f"A column's name has at most {LONGEST_COLUMN} characters."
    return None


def require_paid_plan(actor: User) -> None:
    """Raise PaymentNeeded, with both ways on, when the plan has no server training."""
    if not subscriptions.limit(actor, "server_jobs"):
        raise PaymentNeeded(
            "Training on the server needs a paid plan. On your own machine it is free and unlimited.",
            code="needs_plan",
            ways=[
                {"label": "Train on your own machine", "url": "/agents",
                 "explanation": "Free and unlimited: connect a computer of yours in three steps."},
                {"label": "See the plans", "url": "/pricing",
                 "explanation": "A paid plan trains on this server, for credits that renew every month."},
            ],
        )  # fmt: skip


def _place(actor: User, order: Order, fields: dict[str, str]) -> Agent | None:
    place = order.place
    if place == "server":
        return None
    if not isinstance(place, dict) or set(place) != {"agent"} or type(place["agent"]) is not int:
        fields["place"] = 'The place is "server", or {"agent": <id>} for one of your machines.'
        return None
    agent = agents.get_for(actor, place["agent"])
    if agents.is_connected(agent) and not agent.ready and order.recipe != scripts.RECIPE:
        raise Conflict(
            f"{agent.name} is connected but not ready: {', '.join(agent.missing)} missing. {agent.advice or ''}".strip(),
            code="agent_not_ready",
        )
    return agent


def _data(actor: User, order: Order, agent: Agent | None, fields: dict[str, str]) -> DatasetVersion | None:
    if (order.dataset_id is None) == (not order.local_path):
        fields["dataset_id"] = (
            "Choose a data set, or for a machine of yours a file on it (`local_path`): one of the two."
        )
        return None
    if order.local_path:
        if agent is None and "place" not in fields:
            fields["local_path"] = (
                "A file on your machine can only be used there. Upload it as a data set to train on the server."
            )
        elif agent is not None and (fault := agents.path_fault(agent, order.local_path)):
            fields["local_path"] = fault
        if fault := _mapping_fault(order.mapping):
            fields["mapping"] = fault
        return None
    assert order.dataset_id is not None
    return datasets.get_for(actor, order.dataset_id)
