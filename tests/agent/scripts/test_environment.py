"""Which of the agent's variables a script is given."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import agent
from agent.scripts.environment import for_the_script, on_own_machine
from agent.settings import for_training

OWN = {
    "PATH": "/usr/bin",
    "LD_LIBRARY_PATH": "/usr/local/cuda/lib64",
    "DYLD_LIBRARY_PATH": "/opt/conda/lib",
    "LD_PRELOAD": "/tmp/other.so",
    "PYTHONPATH": "/agent",
    "CUDA_VISIBLE_DEVICES": "0",
    "CUDA_CACHE_PATH": "/tmp/cache",
    "NVIDIA_DRIVER_CAPABILITIES": "compute",
    "XDG_CACHE_HOME": "/home/me/.cache",
    "NVIDIA_API_KEY": "nvapi-secret",
    "CUDA_TOKEN": "secret",
    "XDG_PASSWORD": "secret",
    "HF_TOKEN": "hf_secret",
}


@pytest.mark.parametrize("name", ["NVIDIA_API_KEY", "CUDA_TOKEN", "XDG_PASSWORD", "HF_TOKEN"])
def test_what_names_a_secret_is_given_only_where_it_is_allowed(name: str) -> None:
    assert name not in on_own_machine(OWN, (), None)
    assert on_own_machine(OWN, (name,), None)[name] == OWN[name]
    assert name not in on_own_machine(OWN, (name,), [])


def test_what_any_program_needs_is_given_and_nothing_that_loads_code() -> None:
    assert set(on_own_machine(OWN, (), None)) == {
        "PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "CUDA_CACHE_PATH",
        "NVIDIA_DRIVER_CAPABILITIES", "XDG_CACHE_HOME",
    }  # fmt: skip


def test_a_path_of_the_members_own_stands_behind_the_helper_and_without_the_agents() -> None:
    agents = str(Path(agent.__file__).parent.parent)
    own = {"PYTHONPATH": os.pathsep.join([agents, agents, ".", "/home/me/lib"])}
    given = on_own_machine(own, ("PYTHONPATH",), None)
    assert for_the_script("/tools", None, given["PYTHONPATH"])["PYTHONPATH"] == os.pathsep.join(
        ["/tools", ".", "/home/me/lib"]
    )
    assert "PYTHONPATH" not in on_own_machine(own, (), None)
    assert for_the_script("/tools", None)["PYTHONPATH"] == "/tools"


@pytest.mark.parametrize(("allowed", "sent"), [((), ""), (("HF_TOKEN",), "hf_secret")])
def test_the_hub_is_shown_the_members_token_only_where_it_is_allowed(allowed: tuple[str, ...], sent: str) -> None:
    look = "from huggingface_hub.utils import build_hf_headers; print(build_hf_headers().get('authorization', '')[7:])"
    given = for_training({**os.environ, "HF_TOKEN": "hf_secret", "TRAINYARD_API_KEY": "ty_secret"}, allowed)
    seen = subprocess.run([sys.executable, "-c", look], env=given, capture_output=True, text=True, check=True)
    assert seen.stdout.strip() == sent and "TRAINYARD_API_KEY" not in given
