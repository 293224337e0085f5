"""What ordering a script means beside ordering any training: where it may run, which file, for how long."""

from __future__ import annotations

from typing import Any

from agent.scripts import manifest as manifests
from models.agents import Agent
from models.base import db
from models.datasets import SCRIPT_KIND, DatasetVersion
from models.training_jobs import TrainingJob
from services import workers
from services.gateways import gateways
from services.training_jobs.estimate import Quote

OWN_MACHINE_ONLY = ("python", "environment")
RECIPE = "script"


def faults(parameters: dict[str, Any], data: DatasetVersion | None, agent: Agent | None) -> dict[str, str]:
    """A sentence for each field of an order that cannot be carried out. Raises Unavailable on a server without walls."""
    if agent is not None:
        return _faults_on_a_machine(data, agent)
    workers.refuse_scripts()
    fields = {
        f"parameters.{name}": "This is for a script on a machine of yours. On the server its own Python runs it."
        for name in OWN_MACHINE_ONLY
        if parameters.get(name)
    }
    if data is None:
        return fields
    if data.dataset.kind != SCRIPT_KIND:
        return {
            **fields,
            "dataset_id": f"{data.dataset.name} is data. Upload the script's folder as a zip, kind “script”.",
        }
    manifest = manifest_of(data)
    try:
        manifests.entry_of(manifest, data.quality["scripts"], parameters.get("entry"))
    except manifests.BadManifest as refusal:
        fields["parameters.entry"] = str(refusal)
    if (parameters.get("max_minutes") or 0) > most_minutes():
        fields["parameters.max_minutes"] = (
            f"On this server a script runs for at most {most_minutes():,} minutes at a time; Resume lets it go on."
        )
    _, wrong = manifest.values(parameters.get("values") or {})
    return fields | {f"parameters.values.{name}": sentence for name, sentence in wrong.items()}


def most_minutes() -> int:
    """For how long one attempt of a script may run on this server."""
    return int(gateways().settings.sandbox_limits["wall_seconds"] // 60)


def manifest_of(data: DatasetVersion) -> manifests.Manifest:
    """What the yard.toml of an uploaded script says."""
    return manifests.parse(data.quality["manifest"].encode())


def quote(parameters: dict[str, Any], price_per_minute: int) -> Quote:
    """A script has no steps to count beforehand: its member says how long it may run, and pays what it takes."""
    minutes = int(parameters["max_minutes"])
    return Quote(minutes * price_per_minute, minutes, minutes * price_per_minute)


def terms_of(job_id: int, worker: str) -> dict[str, Any]:
    """What a script of this job is allowed on this worker, as its runner takes it; nothing for other recipes."""
    job = db.session.get_one(TrainingJob, job_id)
    if job.recipe != RECIPE:
        return {}
    settings = gateways().settings
    minutes = min(job.parameters["max_minutes"], most_minutes())
    # The credits end it first, with time for a checkpoint; this holds when nobody counts.
    limits = {**settings.sandbox_limits, "wall_seconds": minutes * 60 + 300}
    return {"sandbox": {"lane": workers.lane_for(worker), "limits": limits, "accelerator": settings.accelerator}}


def _faults_on_a_machine(data: DatasetVersion | None, agent: Agent) -> dict[str, str]:
    if data is not None:
        return {
            "dataset_id": f"{agent.name} runs scripts only from its own folders, never what a server sends. Name the folder "
            "by its path there (`local_path`)."
        }
    if not agent.machine.get("scripts"):
        return {"place": f"The agent on {agent.name} was started without --allow-scripts, so it runs no scripts."}
    return {}
