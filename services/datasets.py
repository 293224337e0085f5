"""Data sets of members: taking a file in, showing what is in it, keeping frozen versions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import select, update

from agent import formats
from models.accounts import User
from models.base import add, changed, db, end_read, now, transaction
from models.datasets import KINDS, SCRIPT_KIND, Dataset, DatasetVersion
from models.uploads import Upload
from services import dataset_inspection, inspections, script_inspection, uploads
from services.errors import Conflict, Invalid, NotFound
from services.gateways import gateways

KIND_LABELS = {
    "conversation": ("Conversation", "Questions and answers, or whole dialogues."),
    "code_generation": ("Code generation", "A description in, code out."),
    "error_fixing": ("Error fixing", "Broken code or an error message in, the repair out."),
    "refactoring": ("Refactoring", "Code in, the same code written better out."),
    "script": ("Training script", "A zip of a folder with your own program that trains, and what it reads."),
}


def create(actor: User, upload: Upload, name: str, kind: str, mapping: dict[str, str] | None) -> DatasetVersion:
    """Read an uploaded file and keep it as the next version of the member's data set of this name.

    The same content read the same way is the version there is already. Raises Invalid with what is wrong in the file,
    or with `columns` and `sample` when the columns have to be mapped; the upload stays for another try. Raises Conflict
    when another request uses it, TooBusy when too many files are being read.
    """
    name = name.strip()
    if not name or len(name) > 120:
        raise Invalid.of(name="Give the data set a name of 1 to 120 characters.")
    if kind not in KINDS:
        raise Invalid.of(kind=f"The kind is one of {', '.join(KINDS)}.")
    if upload.state == "open":
        raise Conflict("This upload is not complete yet.", code="upload_open")
    with uploads.in_use([upload]):
        return _made(actor, upload, name, kind, mapping)


def _made(actor: User, upload: Upload, name: str, kind: str, mapping: dict[str, str] | None) -> DatasetVersion:
    member, path, file, key = actor.id, uploads.path_of(upload), upload.name, gateways().storage.new_key("datasets")
    end_read()
    with inspections.turn(member):
        is_script = kind == SCRIPT_KIND
        found = script_inspection.inspect(path) if is_script else dataset_inspection.inspect(path, file, mapping)
    gateways().storage.keep(path, key)
    try:
        return _store(actor, upload, name, kind, mapping, found, key)
    except BaseException:
        gateways().storage.delete(key)
        raise


def _store(
    actor: User, upload: Upload, name: str, kind: str, mapping: dict[str, str] | None, found: dict[str, Any], key: str
) -> DatasetVersion:
    """Write the rows of a version whose content is kept under `key` already."""
    with transaction():
        dataset = _named(actor, name) or add(Dataset(user_id=actor.id, name=name, kind=kind))
        if (dataset.kind == SCRIPT_KIND) != (kind == SCRIPT_KIND):
            raise Invalid.of(name=f"{name} is a {dataset.kind.replace('_', ' ')} already. Choose another name.")
        newest = dataset.versions[0] if dataset.versions else None
        if newest and (newest.sha256, newest.mapping) == (upload.sha256, mapping):
            uploads.forget(upload)
            gateways().storage.delete(key)
            return newest
        version = add(
            DatasetVersion(
                dataset_id=dataset.id, version=newest.version + 1 if newest else 1, sha256=upload.sha256,
                storage_key=key, file_name=upload.name, bytes=upload.size, mapping=mapping, **found,
            )
        )  # fmt: skip
        uploads.forget(upload)
    return version


def mapping_needed(upload: Upload) -> Invalid | None:
    """The refusal that lists the columns of an upload, when they have to be mapped before it can be read."""
    if upload.state == "open":
        raise Conflict("This upload is not complete yet.", code="upload_open")
    try:
        dataset_inspection.preview(uploads.path_of(upload), upload.name, None, rows=1)
    except formats.MappingNeeded as error:
        return Invalid(error.message, columns=error.columns, sample=error.sample, suggestion=error.suggestion)
    except formats.DataError:
        return None
    return None


def list_for(actor: User, limit: int = 50, before: int | None = None) -> list[DatasetVersion]:
    """The newest version of each data set of a member, newest data set first."""
    newest = (
        select(DatasetVersion)
        .join(Dataset)
        .where(Dataset.user_id == actor.id, Dataset.deleted_at.is_(None))
        .where(~_newer().exists())
        .order_by(Dataset.id.desc())
        .limit(limit)
    )
    if before is not None:
        newest = newest.where(Dataset.id < before)
    return list(db.session.scalars(newest))


def get_for(actor: User, dataset_id: int) -> DatasetVersion:
    """The newest version of one data set of this member. Raises NotFound."""
    version = db.session.scalar(
        select(DatasetVersion)
        .join(Dataset)
        .where(Dataset.id == dataset_id, Dataset.user_id == actor.id, Dataset.deleted_at.is_(None))
        .order_by(DatasetVersion.version.desc())
        .limit(1)
    )
    if version is None:
        raise NotFound("You have no such data set.")
    return version


def delete(actor: User, dataset_id: int) -> None:
    """Put a data set away. Its content stays: jobs that were trained on it may be tried again."""
    with transaction():
        version = get_for(actor, dataset_id)
        changed(update(Dataset).where(Dataset.id == version.dataset_id).values(deleted_at=now()))


def preview(version: DatasetVersion) -> list[dict[str, Any]]:
    """The first rows as they will be trained on; a script has none."""
    if version.dataset.kind == SCRIPT_KIND:
        return []
    return dataset_inspection.preview(path_of(version), version.file_name, version.mapping)


def path_of(version: DatasetVersion) -> Path:
    """Where the content of a version lies."""
    return gateways().storage.path(version.storage_key)


def _named(actor: User, name: str) -> Dataset | None:
    return db.session.scalar(
        select(Dataset).where(Dataset.user_id == actor.id, Dataset.name == name, Dataset.deleted_at.is_(None))
    )


def _newer() -> Any:
    other = db.aliased(DatasetVersion)
    return select(other.id).where(other.dataset_id == DatasetVersion.dataset_id, other.version > DatasetVersion.version)
