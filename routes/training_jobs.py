"""Training jobs: the overview, the wizard, the job's page, and the same for programs."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, Literal

from flask import Blueprint, Response, render_template, request, stream_with_context, url_for
from pydantic import ConfigDict, Field
from werkzeug.wrappers import Response as AnyResponse

from agent import recipes
from models.training_jobs import TrainingJob
from routes import job_stream
from routes.agents import shown_agents
from routes.answers import Given, Id, answer, form, page_of_list, read, wants_json
from routes.guards import actor
from routes.model_versions import shown as shown_model
from services import base_models, datasets, model_versions, price_list, subscriptions, training_jobs
from services.errors import Invalid
from services.gateways import gateways

bp = Blueprint("training_jobs", __name__)
overview = Blueprint("ai_training", __name__)
PAGE_POINTS = 1000


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


class JobForm(Given):
    """The wizard's fields; they say the same as NewJob."""

    name: str
    description: str = Field("", max_length=4000)
    source: Literal["dataset", "local"] = "dataset"
    dataset_id: Id | None = None
    local_path: str | None = None
    map_prompt: str = ""
    map_completion: str = ""
    map_text: str = ""
    base_model: str = base_models.YARD_TINY
    base_folder: str = ""
    place: str = Field(pattern=r"^(server|agent:\d{1,9})$")

    def order(self) -> training_jobs.Order:
        local = self.source == "local"
        mapping = {"prompt": self.map_prompt, "completion": self.map_completion, "text": self.map_text}
        return training_jobs.Order(
            name=self.name, description=self.description, recipe="language",
            dataset_id=None if local else self.dataset_id, local_path=self.local_path if local else None,
            mapping={target: column for target, column in mapping.items() if column} or None if local else None,
            base_model=self.base_folder if self.base_model == "other" else self.base_model,
            place="server" if self.place == "server" else {"agent": int(self.place.removeprefix("agent:"))},
            parameters=_form_parameters(),
        )  # fmt: skip


@overview.get("")
def index() -> str:
    tab = "models" if request.args.get("tab") == "models" else "train"
    limit, before = page_of_list()
    jobs = training_jobs.summaries(training_jobs.list_for(actor(), limit, before)) if tab == "train" else []
    models = [shown_model(v) for v in model_versions.list_for(actor(), limit, before)] if tab == "models" else []
    return render_template("training_jobs/index.html", tab=tab, jobs=jobs, models=models, agents=shown_agents(actor()))


@bp.get("")
def list_jobs() -> AnyResponse:
    limit, before = page_of_list()
    jobs = training_jobs.summaries(training_jobs.list_for(actor(), limit, before)) if wants_json() else []
    return answer(jobs, to=url_for("ai_training.index"))


@bp.get("/new")
def new() -> str:
    return render_template("training_jobs/new.html", **_wizard())


@bp.post("")
@form("training_jobs/new.html", lambda: _wizard())
def create() -> AnyResponse:
    order = read(NewJob).order() if request.is_json else read(JobForm).order()
    job = training_jobs.create(actor(), order)
    return answer(training_jobs.whole(job) if wants_json() else None, 201, to=url_for("training_jobs.show", id=job.id))


@bp.post("/quote")
def quote() -> AnyResponse:
    return answer(training_jobs.price(actor(), read(NewJob).order()).as_dict(), to=url_for("training_jobs.new"))


@bp.get("/<int:id>")
def show(id: int) -> AnyResponse:
    job = training_jobs.get_for(actor(), id)
    return (
        answer(training_jobs.whole(job)) if wants_json() else answer(None, page="training_jobs/show.html", **_page(job))
    )


@bp.get("/<int:id>/metrics")
def metrics(id: int) -> AnyResponse:
    return answer({"series": training_jobs.series_of(training_jobs.get_for(actor(), id).id)}, page="errors/error.html")


@bp.get("/<int:id>/logs")
def logs(id: int) -> Response:
    job = training_jobs.get_for(actor(), id)
    return Response(stream_with_context(training_jobs.log_of(job.id)), mimetype="text/plain; charset=utf-8")


@bp.get("/<int:id>/events")
def events(id: int) -> Response:
    job = training_jobs.get_for(actor(), id)
    after = request.headers.get("Last-Event-ID") or request.args.get("after", "0")
    if not (after.isascii() and after.isdigit() and len(after) < 16):
        raise Invalid.of(after="`Last-Event-ID` is the number of the last event you have.")
    return job_stream.response(actor(), job.id, int(after))


@bp.get("/<int:id>/artifacts")
def artifacts(id: int) -> AnyResponse:
    job = training_jobs.get_for(actor(), id)
    return answer(model_versions.artifacts(model_versions.of_job(job.id)), to=url_for("training_jobs.show", id=id))


@bp.post("/<int:id>/stop")
def stop(id: int) -> AnyResponse:
    return _ordered(training_jobs.stop(actor(), id))


@bp.post("/<int:id>/resume")
def resume(id: int) -> AnyResponse:
    return _ordered(training_jobs.resume(actor(), id))


@bp.post("/<int:id>/retry")
def retry(id: int) -> AnyResponse:
    return _ordered(training_jobs.retry(actor(), id))


@bp.post("/<int:id>/cancel")
def cancel(id: int) -> AnyResponse:
    return _ordered(training_jobs.cancel(actor(), id))


def _ordered(job: TrainingJob) -> AnyResponse:
    return answer(training_jobs.whole(job) if wants_json() else None, to=url_for("training_jobs.show", id=job.id))


def _page(job: TrainingJob) -> dict[str, Any]:
    receipt = training_jobs.receipt(job)
    return {
        "job": training_jobs.whole(job), "series": training_jobs.series_of(job.id, PAGE_POINTS),
        "log": training_jobs.log_tail(job.id), "last_event": job.last_event,
        "artifacts": model_versions.artifacts(model_versions.of_job(job.id)), "receipt": receipt,
        "receipt_total": sum(line["credits"] for line in receipt), "example": job.facts.get("example"),
    }  # fmt: skip


def _wizard() -> dict[str, Any]:
    user = actor()
    plan = subscriptions.current(user).plan
    minute = price_list.price(f"training_minute:{gateways().settings.accelerator}")
    allowed = bool(plan.limits["server_jobs"])
    reason = (
        None if allowed else "Training on the server needs a paid plan. On your own machine it is free and unlimited."
    )
    return {
        "datasets": [_dataset(version) for version in datasets.list_for(user, limit=200)],
        "base_models": base_models.choices(user), "agents": shown_agents(user),
        "parameters": [asdict(parameter) for parameter in recipes.CATALOG["language"].parameters],
        "server": {"allowed": allowed, "reason": reason, "credits_per_minute": minute, "plan_name": plan.display_name},
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
    for parameter in recipes.CATALOG["language"].parameters:
        text = request.form.get(parameter.name, "").strip()
        if not text or (parameter.name in ("epochs", "max_steps") and parameter.name != length):
            continue
        if parameter.name == "lora_rank" and request.form.get("method") == "full":
            continue
        given[parameter.name] = _as(parameter.kind, text)
    return given


def _as(kind: str, text: str) -> Any:
    try:
        return int(text) if kind == "int" else float(text) if kind == "float" else text
    except ValueError:
        return text
