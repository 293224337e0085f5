"""Files of a server job, on the server's own disk: what its runner reads and what it leaves."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from agent.protocol import JobSpec
from models.base import db, transaction
from models.training_jobs import TrainingJob
from services import base_models, datasets, model_versions
from services.gateways import gateways
from services.gateways.storage import sha256_of
from services.model_versions import NewFile
from services.training_jobs.attempts import require_running


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


def _linked(source: Path, target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        try:
            os.link(source, target)
        except OSError:  # another file system
            shutil.copyfile(source, target)
    return target
