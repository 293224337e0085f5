"""Training jobs: the overview, the wizard, the job's page, and the same for programs."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from flask import Blueprint, Response, flash, redirect, render_template, request, stream_with_context, url_for
from werkzeug.wrappers import Response as AnyResponse

from models.training_jobs import TrainingJob
from routes import job_stream
from routes.answers import Given, answer, form, page_of_list, read, wants_json
from routes.guards import actor
from routes.model_versions import shown as shown_model
from routes.training_forms import JobForm, NewJob, ScriptForm, as_ordered, script_page, wizard
from services import agents, model_versions, server_files, training_jobs
from services.errors import Conflict, Invalid

bp = Blueprint("training_jobs", __name__)
overview = Blueprint("ai_training", __name__)
PAGE_POINTS = 1000
FIGURE_POINTS = 600


class Curves(Given):
    """Names of the rules whose curves are not shown; a form sends `off` once for each."""

    off: list[str] = []


@overview.get("")
def index() -> str:
    tab = "models" if request.args.get("tab") == "models" else "train"
    limit, before = page_of_list()
    jobs = training_jobs.summaries(training_jobs.list_for(actor(), limit, before)) if tab == "train" else []
    models = [shown_model(v) for v in model_versions.list_for(actor(), limit, before)] if tab == "models" else []
    return render_template(
        "training_jobs/index.html", tab=tab, jobs=jobs, models=models, ready=agents.count_ready(actor())
    )


@bp.get("")
def list_jobs() -> AnyResponse:
    limit, before = page_of_list()
    jobs = training_jobs.summaries(training_jobs.list_for(actor(), limit, before)) if wants_json() else []
    return answer(jobs, to=url_for("ai_training.index"))


@bp.get("/new")
def new() -> str:
    return render_template("training_jobs/new.html", **wizard())


@bp.post("")
@form("training_jobs/new.html", lambda: wizard())
def create() -> AnyResponse:
    job = training_jobs.create(actor(), read(NewJob if request.is_json else JobForm).order())
    return answer(training_jobs.whole(job) if wants_json() else None, 201, to=url_for("training_jobs.show", id=job.id))


@bp.get("/new/script")
def new_script() -> str:
    """`?like=<job>` shows it with everything as that job of this member was ordered."""
    return render_template("training_jobs/new_script.html", **script_page(), **as_ordered(request.args.get("like")))


@bp.get("/script")
def script_form() -> AnyResponse:
    """Where a refused order has left the browser."""
    return redirect(url_for("training_jobs.new_script"))


@bp.post("/script")
@form("training_jobs/new_script.html", lambda: script_page())
def create_script() -> AnyResponse:
    job = training_jobs.create(actor(), read(ScriptForm).order())
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
    job, points = training_jobs.get_for(actor(), id), request.args.get("points")
    if points is not None and not (points.isascii() and points.isdigit() and len(points) < 8 and 1 <= int(points)):
        raise Invalid.of(points="`points` is how many points of a curve are enough, from 1.")
    series = training_jobs.series_of(job.id, int(points) if points else None)
    return answer({"series": series}, page="errors/error.html")


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


@bp.get("/<int:id>/figures")
def figures(id: int) -> AnyResponse:
    job = training_jobs.get_for(actor(), id)
    return answer(training_jobs.figures_of(job.id, FIGURE_POINTS), to=url_for("training_jobs.show", id=id))


@bp.get("/<int:id>/samples")
def samples(id: int) -> AnyResponse:
    job = training_jobs.get_for(actor(), id)
    limit, before = page_of_list()
    items, following = training_jobs.samples_of(job.id, limit, before)
    return answer(
        {"items": items, "next": None if following is None else str(following)}, to=url_for("training_jobs.show", id=id)
    )


@bp.get("/<int:id>/samples/<int:number>")
def sample(id: int, number: int) -> Response:
    data, media_type = training_jobs.image_of(training_jobs.get_for(actor(), id).id, number)
    headers = {"Cache-Control": "private, max-age=31536000, immutable", "Content-Security-Policy": "sandbox"}
    return Response(data, mimetype=media_type, headers=headers)


@bp.post("/<int:id>/curves")
def curves(id: int) -> AnyResponse:
    off = read(Curves).off if request.is_json else request.form.getlist("off")
    return _ordered(training_jobs.hide_curves(actor(), id, off))


@bp.get("/<int:id>/artifacts")
def artifacts(id: int) -> AnyResponse:
    job = training_jobs.get_for(actor(), id)
    return answer(model_versions.artifacts(model_versions.of_job(job.id)), to=url_for("training_jobs.show", id=id))


def _on_an_old_page(view: Callable[[int], AnyResponse]) -> Callable[[int], AnyResponse]:
    """A button of a page that is no longer true leads to the job as it is now, with the reason; programs get the conflict."""

    @functools.wraps(view)
    def wrapped(id: int) -> AnyResponse:
        try:
            return view(id)
        except Conflict as refusal:
            if wants_json():
                raise
            flash(refusal.message, "danger")
            return answer(None, to=url_for("training_jobs.show", id=id))

    return wrapped


@bp.post("/<int:id>/stop")
@_on_an_old_page
def stop(id: int) -> AnyResponse:
    return _ordered(training_jobs.stop(actor(), id))


@bp.post("/<int:id>/resume")
@_on_an_old_page
def resume(id: int) -> AnyResponse:
    return _ordered(training_jobs.resume(actor(), id))


@bp.post("/<int:id>/retry")
@_on_an_old_page
def retry(id: int) -> AnyResponse:
    return _ordered(training_jobs.retry(actor(), id))


@bp.post("/<int:id>/cancel")
@_on_an_old_page
def cancel(id: int) -> AnyResponse:
    return _ordered(training_jobs.cancel(actor(), id))


def _ordered(job: TrainingJob) -> AnyResponse:
    return answer(training_jobs.whole(job) if wants_json() else None, to=url_for("training_jobs.show", id=job.id))


def _page(job: TrainingJob) -> dict[str, Any]:
    last_event, receipt = job.last_event, training_jobs.receipt(job)
    return {
        "job": training_jobs.whole(job), "series": training_jobs.series_of(job.id, PAGE_POINTS),
        "log": training_jobs.log_tail(job.id, last_event), "last_event": last_event,
        "artifacts": model_versions.artifacts(model_versions.of_job(job.id)), "receipt": receipt,
        "receipt_total": sum(line["credits"] for line in receipt), "example": job.facts.get("example"),
        "checkpoint": server_files.checkpoint_of(job),
        "machine_is_offline": job.agent is not None and not agents.is_connected(job.agent),
    }  # fmt: skip
