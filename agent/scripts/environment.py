"""The environment variables a script is started with: few, and none that a job could use to reach further.

On a member's machine it gets what any program needs (paths, language, devices, proxies) and the variables the member
named when starting the agent; the names other tools expect are listed in the guide. In a sandbox it gets only what is
set here.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path

from ..masking import names_a_secret
from ..settings import JOB_MARK

EVENTS = "TRAINYARD_EVENTS"
CHECKPOINT = "TRAINYARD_CHECKPOINT"

_AGENTS_FOLDER = str(Path(__file__).resolve().parent.parent.parent)  # `program` puts it into PYTHONPATH
_PLAIN = {
    "PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "TZ", "TMPDIR", "TEMP", "TMP", "TERM",
    "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "TORCH_HOME", "HF_HOME",
    "HF_ENDPOINT", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY",
    "ALL_PROXY", "SYSTEMROOT", "COMSPEC", "PATHEXT", "APPDATA", "LOCALAPPDATA", "USERPROFILE", JOB_MARK,
}  # fmt: skip
# Of these families, all but what names a secret, such as NVIDIA_API_KEY.
_FAMILIES = ("LC_", "CUDA_", "NVIDIA_", "HIP_", "ROCR_", "XDG_")
_AGENTS_OWN = ("PYTHONPATH", "PYTHONSAFEPATH", "PYTHONHOME")


def on_own_machine(own: Mapping[str, str], allowed: Collection[str], wanted: Collection[str] | None) -> dict[str, str]:
    """What of the agent's own environment a script gets; `wanted` chooses among the `allowed` names, None takes all."""
    chosen = set(allowed) if wanted is None else set(wanted) & set(allowed)
    return {
        name: value
        for name, value in own.items()
        if name.upper() in _PLAIN or name in chosen or (name.startswith(_FAMILIES) and not names_a_secret(name))
    }


def for_an_installer(own: Mapping[str, str], allowed: Collection[str]) -> dict[str, str]:
    """What `pip` gets, which needs more than a script (compilers, its own settings): all but the agent's secrets and what
    leads to the agent's own packages."""
    return {
        name: value
        for name, value in own.items()
        if name not in _AGENTS_OWN and (name in allowed or not names_a_secret(name))
    }


def in_sandbox(own: Mapping[str, str]) -> dict[str, str]:
    """What a script on the server gets beside what its box sets: nothing of the server but the mark of its processes."""
    kept = {name: own[name] for name in (JOB_MARK,) if name in own}
    return {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", **kept}


def for_the_script(tools: str, checkpoint: str | None, own_path: str = "") -> dict[str, str]:
    """What tells a script where it is: output without delay, the helper `trainyard`, and what it goes on from.

    `own_path` is a PYTHONPATH that the member gives it. The helper's folder holds nothing else, so it stands in front.
    """
    # Threads of PyTorch spin while they wait for each other; beside other work on few cores that was seen to make a step
    # take forty times as long (see recipes.load).
    path = [tools, *(each for each in own_path.split(os.pathsep) if each and each != _AGENTS_FOLDER)]
    given = {"PYTHONUNBUFFERED": "1", "PYTHONPATH": os.pathsep.join(path), EVENTS: f"{tools}/events"}
    given |= {"GOMP_SPINCOUNT": "1000", "OMP_WAIT_POLICY": "passive"}
    return given if checkpoint is None else {**given, CHECKPOINT: checkpoint}


def missing(wanted: Collection[str] | None, allowed: Collection[str], own: Mapping[str, str]) -> list[str]:
    """The names a job asks for and does not get: not allowed here, or not set."""
    return sorted(name for name in wanted or () if name not in allowed or name not in own)
