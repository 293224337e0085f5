"""What a training can begin from, and whether that is there before anything is queued or paid.

`yard-tiny`; `model:<id>`, a version the member owns; a folder in Hugging Face format (on the server a name under
BASE_MODELS_DIR, on an agent a path on that machine); or a hub id such as `org/name`.
"""

from __future__ import annotations

import hashlib
import json
import re
import urllib.error
import urllib.request
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as TooLate
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import select

from models.accounts import User
from models.base import db
from models.model_versions import ModelFile, ModelVersion
from services import model_versions
from services.errors import Invalid, NotFound, Unavailable
from services.gateways import gateways

YARD_TINY = "yard-tiny"
YARD_TINY_PARAMETERS = 2_985_216
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?")
HUB_SECONDS = 4.0
WEIGHTS = (".safetensors",)


@dataclass(frozen=True)
class BaseModel:
    """`value` goes into the job's spec, `name` into artifacts ("" when the runner hashes the folder);
    `parameters` is a count when known."""

    value: str
    name: str
    parameters: int | None = None


def resolve(actor: User, given: str, *, on_server: bool) -> BaseModel:
    """Find what a member named. Raises Invalid with a sentence on the field `base_model`; asks the hub at most 4 s.

    Makes a network call for hub ids of server jobs: never inside a transaction.
    """
    given = given.strip()
    if given == YARD_TINY:
        return BaseModel(YARD_TINY, YARD_TINY, YARD_TINY_PARAMETERS)
    if given.startswith("model:"):
        return _own(actor, given)
    path = given.removeprefix("folder:")
    if given != path or given.startswith(("/", "~")) or re.match(r"[A-Za-z]:[\\/]", given):
        return _folder_named(path) if on_server else BaseModel(f"folder:{path}", "")
    if on_server and gateways().settings.base_models_dir and "/" not in given and (_root() / given).is_dir():
        return _folder_named(given)
    if not HUB_ID.fullmatch(given) or ".." in given:
        raise _unknown(given)
    return _on_hub(given) if on_server else BaseModel(given, given)


def choices(actor: User) -> list[dict[str, Any]]:
    """What the wizard offers: yard-tiny, the member's own models, the operator's folders."""
    offered: list[dict[str, Any]] = [
        {
            "value": YARD_TINY, "label": "yard-tiny", "parameters": YARD_TINY_PARAMETERS, "place": "any",
            "explanation": "A small model with nothing to download. It starts from scratch: good for a first training.",
        }
    ]  # fmt: skip
    versions = model_versions.list_for(actor, limit=20)
    named = model_versions.names_of(versions)
    for version in versions:
        if not is_foundation(named[version.id]):
            continue
        offered.append(
            {
                "value": f"model:{version.id}", "label": f"{version.trained_model.name}, version {version.version}",
                "parameters": None, "place": "any",
                "explanation": f"Your own, trained {_origin(version)}.",
            }
        )  # fmt: skip
    for folder in _folders():
        offered.append(
            {
                "value": folder.name, "label": folder.name, "parameters": _parameters(folder), "place": "server",
                "explanation": "Provided by this server.",
            }
        )  # fmt: skip
    return offered


def _origin(version: ModelVersion) -> str:
    return f"from {version.base_name}" if version.base_name else "elsewhere"


def is_foundation(names: Collection[str]) -> bool:
    """Whether files of these names make a model that a training can begin from."""
    together = [name.removeprefix("merged/") for name in names if name.startswith("merged/")] or names
    return "config.json" in together and any(map(_are_weights, together))


def _are_weights(name: str) -> bool:
    return name.endswith(WEIGHTS) and "adapter" not in name and "/" not in name


def _lack(files: Collection[str]) -> str:
    """Why no training can begin from files of these names."""
    if any(map(_are_weights, files)):
        return "has no config.json, which says how its weights are put together. Upload the whole folder of the model."
    if "adapter_model.safetensors" in files:
        return "is an adapter alone; train from its base model, or on the machine that holds both."
    return "holds no weights in the safetensors format. Train from another model."


def files_of(version_id: int) -> dict[str, ModelFile]:
    """The files that make a version a base model, by the name each has beside the others: merged ones if there are."""
    files = db.session.scalars(
        select(ModelFile).where(ModelFile.model_version_id == version_id).order_by(ModelFile.name)
    )
    named = {file.name: file for file in files}
    merged = {name.removeprefix("merged/"): file for name, file in named.items() if name.startswith("merged/")}
    return merged or {name: file for name, file in named.items() if "/" not in name}


def server_folder(name: str) -> Path:
    """The folder of an operator's base model, for the worker."""
    return _root() / name


def _own(actor: User, given: str) -> BaseModel:
    version_id = given.removeprefix("model:")
    try:
        version = model_versions.get_for(actor, int(version_id) if re.fullmatch("[0-9]{1,9}", version_id) else 0)
    except NotFound:
        raise Invalid.of(
            base_model=f"You have no model {version_id!r}. Your models are listed under My models."
        ) from None
    files = files_of(version.id)
    if not is_foundation(files):
        raise Invalid.of(base_model=f"Version {version.version} of {version.trained_model.name} {_lack(files)}")
    shards = [file for name, file in files.items() if name.endswith(WEIGHTS)]
    known = version.details.get("parameters") if version.job_id is None else None
    return BaseModel(given, f"sha256:{_sum_of(shards)}", known or sum(file.bytes for file in shards) // 4)


def _sum_of(shards: list[ModelFile]) -> str:
    """The hash that names these weights: of the one file, or of the hashes of several in their order."""
    if len(shards) == 1:
        return shards[0].sha256
    return hashlib.sha256("".join(file.sha256 for file in shards).encode()).hexdigest()


def _folder_named(name: str) -> BaseModel:
    names = [folder.name for folder in _folders()]
    if name not in names:
        there = f"There are: {', '.join(names)}." if names else "The operator has put none there."
        raise Invalid.of(base_model=f"The server has no base model {name!r}. {there} Or use {YARD_TINY}.")
    folder = _root() / name
    return BaseModel(f"folder:{name}", "", _parameters(folder))


def _on_hub(name: str) -> BaseModel:
    pool = ThreadPoolExecutor(max_workers=1)
    try:
        about = pool.submit(_ask_hub, gateways().settings.hub_endpoint, name).result(timeout=HUB_SECONDS)
    except TooLate:
        raise _no_hub(name) from None
    finally:
        pool.shutdown(wait=False)
    if about.get("gated"):
        page = f"{gateways().settings.hub_endpoint}/{name}"
        raise Invalid.of(
            base_model=f"{name} asks for a licence to be accepted at {page}. Accept it, then train it on your own machine."
        )
    names = [str(file.get("rfilename", "")) for file in about.get("siblings", [])]
    if names and not any(file.endswith(WEIGHTS) for file in names):
        raise Invalid.of(
            base_model=f"{name} has no safetensors weights, and other formats can run code. Choose another model."
        )
    total = (about.get("safetensors") or {}).get("total")
    return BaseModel(name, name, int(total) if isinstance(total, int) else None)


def _ask_hub(endpoint: str, name: str) -> dict[str, Any]:
    url = f"{endpoint}/api/models/{name}"
    try:
        with urllib.request.urlopen(url, timeout=HUB_SECONDS) as answer:  # noqa: S310 - the endpoint is the operator's
            return dict(json.loads(answer.read(4_000_000)))
    except urllib.error.HTTPError as error:
        if error.code in (401, 403, 404):
            raise _unknown(name) from None
        raise _no_hub(name) from None
    except (OSError, ValueError):
        raise _no_hub(name) from None


def _no_hub(name: str) -> Unavailable:
    sentence = f"{name} would come from the model hub, which cannot be reached from here. Use {YARD_TINY}, or a model of yours."
    return Unavailable(sentence, code="hub_unreachable", fields={"base_model": sentence})


def _unknown(name: str) -> Invalid:
    return Invalid.of(
        base_model=f"There is no base model {name[:80]!r}. Use {YARD_TINY}, model:<id> for one of yours, "
        "a folder in Hugging Face format, or a hub id such as org/name."
    )


def _root() -> Path:
    root = gateways().settings.base_models_dir
    if root is None:
        raise Invalid.of(base_model=f"This server offers no folders as base models. Use {YARD_TINY} or a hub id.")
    return root


def _folders() -> list[Path]:
    root = gateways().settings.base_models_dir
    if root is None or not root.is_dir():
        return []
    return sorted(path.parent for path in root.glob("*/config.json"))


def _parameters(folder: Path) -> int:
    """About how many: weights are mostly kept in two bytes each."""
    return sum(file.stat().st_size for file in folder.glob("*.safetensors")) // 2
