"""Files of a running attempt: the data and base model it fetches, the artifacts it delivers."""

from __future__ import annotations

from pathlib import Path

from agent.artifact_names import name_fault
from models.accounts import User
from models.base import db, transaction
from models.model_versions import ModelVersion
from models.training_jobs import TrainingJob
from models.uploads import Upload
from services import base_models, datasets, model_versions, subscriptions, uploads
from services.errors import Conflict, Invalid, NotFound, TooLarge
from services.gateways import gateways
from services.model_versions import MOST_FILES, NewFile
from services.training_jobs.attempts import require_running


def data_of(job_id: int, attempt: int) -> Path:
    """Where the data set of a running attempt lies. Raises NotFound for a job with a file of its own machine."""
    version = _job(job_id).dataset_version
    if version is None:
        raise NotFound("This training uses a file of its own machine.")
    return datasets.path_of(version)


def base_file_of(job_id: int, attempt: int, name: str) -> Path:
    """Where one file of the member's own base model lies. Raises NotFound."""
    given = _job(job_id).base_model
    files = base_models.files_of(int(given.removeprefix("model:"))) if given.startswith("model:") else {}
    if name not in files:
        raise NotFound("The base model has no such file.")
    return gateways().storage.path(files[name].storage_key)


def begin_upload(job_id: int, attempt: int, name: str, size: int, sha256: str | None) -> Upload:
    """Begin the upload of an artifact by the runner that holds the attempt; the same file asked again is the same upload.

    What earlier attempts brought is removed: nobody can deliver it any more. Raises Conflict for an attempt that is over,
    Invalid and TooLarge beyond what one training delivers, DiskFull.
    """
    with transaction():
        job = require_running(job_id, attempt)  # locked: nobody else counts this job's uploads
        there = uploads.of_job(job_id)
        for left in (upload for upload in there if upload.attempt != attempt):
            uploads.forget(left)
        own = [upload for upload in there if upload.attempt == attempt]
        same = next((one for one in own if (one.name, one.size, one.sha256) == (name, size, sha256)), None)
        if same is not None:
            return same
        _refuse_too_much(job, len(own) + 1, sum(upload.size for upload in own) + size)
        return uploads.create_for_attempt(job.user_id, job_id, attempt, name, size, sha256)


def _refuse_too_much(job: TrainingJob, files: int, size: int) -> None:
    """Raise Invalid or TooLarge when an attempt would bring more than one training may deliver.

    That is what the operator allows everybody, so that a free member's own model of several GB comes home, or as much as the
    owner's plan takes in one file, where that is more.
    """
    if files > MOST_FILES:
        raise Invalid(f"A training delivers at most {MOST_FILES} files. Keep fewer, or pack them together.")
    owner = db.session.get_one(User, job.user_id)
    most = max(gateways().settings.delivery_bytes, subscriptions.limit(owner, "upload_bytes"))
    if size > most:
        raise TooLarge(
            f"All files of this training are {uploads.shown_size(size)} together, and on your plan it delivers at most "
            f"{uploads.shown_size(most)}. Keep fewer or smaller files.",
            limit_bytes=most,
        )


def deliver(job_id: int, attempt: int, files: list[tuple[str, str]]) -> ModelVersion:
    """Publish finished uploads as what the job made; once, however often it is asked."""
    names = [name for name, _ in files]
    if not files or len(files) > MOST_FILES or len(set(names)) != len(names):
        raise Invalid(f"A delivery lists 1 to {MOST_FILES} files, each name once.")
    for name in names:
        if fault := name_fault(name):
            raise Invalid(f"{name[:100]!r} is not a name for an artifact: {fault}.")
    known = model_versions.of_job(job_id)
    if known:
        return known
    found = [_delivered(job_id, attempt, name, upload_id) for name, upload_id in files]
    with model_versions.kept([file for _, file in found]) as kept, transaction():
        version = model_versions.publish(require_running(job_id, attempt), kept)
        for upload, _ in found:
            uploads.forget(upload)
    return version


def _delivered(job_id: int, attempt: int, name: str, upload_id: str) -> tuple[Upload, NewFile]:
    upload = uploads.get_for_attempt(job_id, attempt, upload_id)
    if upload.state != "complete" or upload.sha256 is None:
        raise Conflict(f"The upload of {name} is not complete.", code="upload_open")
    return upload, NewFile(name, uploads.path_of(upload), upload.size, upload.sha256)


def _job(job_id: int) -> TrainingJob:
    return db.session.get_one(TrainingJob, job_id)
