"""Base models from a hub (huggingface.co, or the address in HF_ENDPOINT): asked first, downloaded afterwards."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import (
    DisabledRepoError,
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import filter_repo_objects  # type: ignore[attr-defined]

from agent.errors import JobFailed
from agent.words import beginning, file_size

PATIENCE = 5.0
SPARED = 2 << 30  # bytes of the disk that stay free for checkpoints and the spool
_WANTED = ["*.safetensors", "*.safetensors.index.json", "*.json", "*.jinja", "*.model", "*.txt"]
_UNWANTED = ["*/*", "consolidated*"]  # subfolders, and a second copy of all weights
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".h5", ".msgpack")


def endpoint() -> str:
    """Address of the hub, without a slash at the end. Read when it is needed: an agent may set it after import."""
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def preflight(model_id: str, patience: float = PATIENCE) -> Any:
    """Ask the hub about a model and return its `ModelInfo`, within `patience` seconds altogether.

    JobFailed (base_model) if the hub does not answer in time, does not know the model, wants a licence accepted
    first, or has its weights only as pickles. One deadline for everything: timeouts of single requests add up, and
    a name that does not resolve is covered by none of them.
    """
    outcome: list[Any] = []
    asking = threading.Thread(target=lambda: outcome.append(_ask(model_id, patience)), daemon=True)
    asking.start()
    asking.join(patience)
    answer = outcome[0] if outcome else TimeoutError()
    if isinstance(answer, BaseException):
        raise _refusal(model_id, answer, patience) from answer
    refuse_pickles(model_id, [file.rfilename for file in answer.siblings or []])
    return answer


def download(model_id: str) -> tuple[Path, str]:
    """Fetch the files of a model that are needed, after `preflight`; returns (folder, commit).

    Files that are already here are not fetched again, and a download that broke off goes on where it was.
    """
    info = preflight(model_id)
    _refuse_without_room(model_id, info.siblings or [])
    print(f"Downloading {model_id} at {info.sha} from {endpoint()}.", flush=True)
    try:
        folder = snapshot_download(
            model_id,
            revision=info.sha,
            endpoint=endpoint(),
            allow_patterns=_WANTED,
            ignore_patterns=_UNWANTED,
        )
    except GatedRepoError as refusal:
        raise _refusal(model_id, refusal, PATIENCE) from refusal
    except Exception as failure:  # which HTTP library raises depends on the hub library's version
        raise JobFailed(
            "base_model",
            f"The download of {model_id} broke off: {beginning(str(failure), 200)}.",
            "Try again; what has arrived is kept. Check the connection and the free disk space.",
        ) from failure
    return Path(folder), str(info.sha)


def _refuse_without_room(model: str, files: Sequence[Any]) -> None:
    """JobFailed when what is to be fetched would fill the disk: a job names the model, and may name any."""
    wanted = filter_repo_objects(
        files, allow_patterns=_WANTED, ignore_patterns=_UNWANTED, key=lambda file: str(file.rfilename)
    )
    needed = sum(file.size or 0 for file in wanted)
    cache = Path(constants.HF_HUB_CACHE)
    free = shutil.disk_usage(next(folder for folder in (cache, *cache.parents) if folder.exists())).free
    if needed > free - SPARED:
        raise JobFailed(
            "base_model",
            f"{model} has {file_size(needed)} to fetch and the disk of {cache} has {file_size(free)} free.",
            "Free some space, choose a smaller model, or set HF_HOME to a folder on another disk.",
        )


def refuse_pickles(model: str, files: list[str]) -> None:
    """JobFailed unless safetensors weights are among the names of files: a pickle can run code when it is read."""
    if any(name.endswith(".safetensors") for name in files):
        return
    pickles = [name for name in files if name.endswith(_PICKLES)]
    if pickles:
        raise JobFailed(
            "base_model",
            f"The weights of {model} are in {pickles[0]}: that format can run code when it is read and is not opened.",
            "Choose a version of the model with .safetensors files, or convert it with save_pretrained.",
        )
    raise JobFailed(
        "base_model",
        f"There are no .safetensors weights in {model}.",
        "Choose a language model in Hugging Face format: config.json, tokenizer.json and .safetensors files.",
    )


def _ask(model_id: str, patience: float) -> Any:
    """The hub's `ModelInfo`, or the exception that came instead."""
    try:
        api = HfApi(endpoint=endpoint())
        info = api.model_info(model_id, timeout=patience, files_metadata=True)
        if info.gated:
            api.auth_check(model_id)
        return info
    except Exception as failure:  # carried to the asking thread, which tells the kinds apart
        return failure


def _refusal(model_id: str, failure: BaseException, patience: float) -> JobFailed:
    page = f"{endpoint()}/{model_id}"
    if isinstance(failure, GatedRepoError):
        return JobFailed(
            "base_model",
            f"{model_id} is only given out after its licence was accepted.",
            f"Accept it at {page}, then set HF_TOKEN to a token of that account where the agent is started, and add "
            "--pass-env HF_TOKEN.",
        )
    if isinstance(failure, RepositoryNotFoundError | DisabledRepoError):
        return JobFailed(
            "base_model",
            f"The hub has no model {model_id} that this machine may read.",
            f"Check the spelling at {page}. For a private model set HF_TOKEN where the agent is started, and add "
            "--pass-env HF_TOKEN.",
        )
    if isinstance(failure, OfflineModeIsEnabled):
        return JobFailed(
            "base_model",
            f"{model_id} would come from the hub, but this machine is set to work offline (HF_HUB_OFFLINE).",
            "Unset HF_HUB_OFFLINE, or choose yard-tiny or a folder on this machine.",
        )
    if isinstance(failure, HfHubHTTPError) and failure.response is not None:
        said = f"answered {failure.response.status_code}"
    else:
        said = f"did not answer within {patience:g} seconds"
    return JobFailed(
        "base_model",
        f"The hub at {endpoint()} {said}, so {model_id} cannot be fetched.",
        "Check the connection of the machine that trains, or choose yard-tiny or a folder on it.",
    )
