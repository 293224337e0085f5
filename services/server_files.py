"""Files of a server job, on the server's own disk: what its runner reads and what it leaves."""

from __future__ import annotations

import json
import os
import shutil
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import and_, select

from agent.protocol import JobSpec
from models.base import db, end_read, now, transaction
from models.training_jobs import Attempt, TrainingJob
from services import base_models, datasets, model_versions
from services.gateways import gateways
from services.gateways.storage import sha256_of
from services.model_versions import NewFile
from services.training_jobs.attempts import require_running

KEPT_AFTER = {
    "completed": timedelta(days=1), "cancelled": timedelta(days=1), "failed": timedelta(days=30),
    "paused": timedelta(days=90),
}  # fmt: skip
LOST_KEPT_AFTER = timedelta(days=30)  # of a job that does not exist, since its folder was used last


def folder_for(job_id: int) -> Path:
    """The folder of a server job that begins an attempt, made if it is not there.

    A database that was restored from a backup gives the numbers of lost jobs out again: what another job of this number
    left is set aside. A folder without a note is from before there were notes, and is this job's.
    """
    job = db.session.get_one(TrainingJob, job_id)
    about = json.dumps({"job": job.id, "user": job.user_id, "created_at": job.created_at.isoformat()})
    end_read()
    folder = gateways().settings.jobs_dir / str(job_id)
    note = folder / "job.json"
    if note.exists() and note.read_text("utf-8") != about:
        folder.rename(folder.with_name(f"{job_id}-set-aside-{time.time_ns()}"))
    folder.mkdir(parents=True, exist_ok=True)
    draft = folder / "job.json.partial"
    with open(draft, "w", encoding="utf-8") as file:
        file.write(about)
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, note)
    return folder


def data_for(spec: JobSpec, folder: Path) -> Path:
    """The data set of a job under its original file name, whose ending tells how it is read."""
    version = db.session.get_one(TrainingJob, spec.job).dataset_version
    assert version is not None
    suffix = Path(version.file_name).suffix.lower()[:8]
    return _linked(datasets.path_of(version), folder / "data" / f"{version.sha256[:16]}{suffix}")


def base_for(spec: JobSpec, folder: Path) -> str:
    """The base model as a recipe takes it; folders of the operator and models of members are put in reach."""
    if spec.base_model.startswith("folder:"):
        return f"folder:{base_models.server_folder(spec.base_model.removeprefix('folder:'))}"
    if spec.base_model != "model":
        return spec.base_model
    job = db.session.get_one(TrainingJob, spec.job)
    target = folder / "base"
    for name, file in base_models.files_of(int(job.base_model.removeprefix("model:"))).items():
        _linked(gateways().storage.path(file.storage_key), target / name)
    return f"folder:{target}"


def deliver(spec: JobSpec, output: Path) -> None:
    """Publish everything under `output` as the job's model version."""
    paths = sorted(path for path in output.rglob("*") if path.is_file())
    files = [NewFile(path.relative_to(output).as_posix(), path, path.stat().st_size, sha256_of(path)) for path in paths]
    with model_versions.kept(files) as kept, transaction():
        model_versions.publish(require_running(spec.job, spec.attempt), kept)


def checkpoint_of(job: TrainingJob) -> dict[str, Any] | None:
    """`until` when the checkpoint of a paused server job is kept, and whether that is `over`; None for every other job."""
    if not job.on_server or job.state != "paused" or job.started_at is None:
        return None
    ended = job.attempts[-1].ended_at
    until = ended and ended + KEPT_AFTER["paused"]
    return {"until": until, "over": until <= now()} if until else None


def forget_old() -> int:
    """Remove the folders of server jobs that will not go on: a day after they completed or were cancelled, a month after
    they failed, three months after they paused; and those that no job has, a month after they were used. Answers how many
    folders went."""
    folders = [path for path in gateways().settings.jobs_dir.glob("*") if path.name[:1].isdecimal() and path.is_dir()]
    numbers = [int(path.name) for path in folders if path.name.isdecimal()]
    present = and_(Attempt.job_id == TrainingJob.id, Attempt.number == TrainingJob.attempt)
    query = (
        select(TrainingJob.id, TrainingJob.state, TrainingJob.finished_at, Attempt.ended_at)
        .outerjoin(Attempt, present)
        .where(TrainingJob.id.in_(numbers), TrainingJob.agent_id.is_(None))
    )
    known = {str(row.id): row for row in db.session.execute(query)}
    end_read()
    old = [path for path in folders if _is_over(path, known.get(path.name))]
    for path in old:
        shutil.rmtree(path, ignore_errors=True)
    return len(old)


def _is_over(folder: Path, job: Any) -> bool:
    if job is None:
        return datetime.fromtimestamp(folder.stat().st_mtime, UTC) < now() - LOST_KEPT_AFTER
    since = job.ended_at if job.state == "paused" else job.finished_at
    return bool(since and job.state in KEPT_AFTER and since < now() - KEPT_AFTER[job.state])


def _linked(source: Path, target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        try:
            os.link(source, target)
        except OSError:  # another file system
            shutil.copyfile(source, target)
    return target
