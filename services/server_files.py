"""Files of a server job, on the server's own disk: what its runner reads and what it leaves."""

from __future__ import annotations

import os
import shutil
from datetime import timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import select

from agent.protocol import JobSpec
from models.base import db, end_read, now, transaction
from models.training_jobs import TrainingJob
from services import base_models, datasets, model_versions
from services.gateways import gateways
from services.gateways.storage import sha256_of
from services.model_versions import NewFile
from services.training_jobs.attempts import require_running

KEPT_AFTER = {"completed": timedelta(days=1), "cancelled": timedelta(days=1), "failed": timedelta(days=30)}


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


def forget_old() -> int:
    """Remove the folders of server jobs that will not go on: a day after they completed or were cancelled, a month after
    they failed. What is paused keeps its checkpoints. Answers how many folders went."""
    folders = [path for path in gateways().settings.jobs_dir.glob("*") if path.name.isdigit() and path.is_dir()]
    numbers = [int(path.name) for path in folders]
    query = select(TrainingJob.id, TrainingJob.state, TrainingJob.finished_at).where(TrainingJob.id.in_(numbers))
    known = {row.id: row for row in db.session.execute(query)}
    end_read()
    old = [path for path in folders if _is_over(known.get(int(path.name)))]
    for path in old:
        shutil.rmtree(path, ignore_errors=True)
    return len(old)


def _is_over(job: Any) -> bool:
    if job is None or job.finished_at is None or job.state not in KEPT_AFTER:
        return False
    return bool(job.finished_at < now() - KEPT_AFTER[job.state])


def _linked(source: Path, target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        try:
            os.link(source, target)
        except OSError:  # another file system
            shutil.copyfile(source, target)
    return target
