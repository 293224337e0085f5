"""A member's own script, unmodified: by path on their machine, as a zip in the server's sandbox. The same page either way."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.running import AgentProcess, Member, Refused, RunningYard, until
from tests.whole.reported import receipt_adds_up

pytestmark = [pytest.mark.whole, pytest.mark.timeout(240)]

TRAIN = """
import argparse, os, struct, time, zlib
parser = argparse.ArgumentParser()
parser.add_argument("--steps", type=int, default=30)
parser.add_argument("--pause", type=float, default=0.02)
parser.add_argument("--resume")
options = parser.parse_args()
os.makedirs("out", exist_ok=True)
os.makedirs("samples", exist_ok=True)
start = int(open(options.resume).read()) if options.resume else 0
for step in range(start + 1, options.steps + 1):
    print(f"iter {step}: loss {3 / step:.4f}, time {options.pause * 1000:.2f}ms")
    with open("out/ckpt.tmp", "w") as file:
        file.write(str(step))
    os.replace("out/ckpt.tmp", "out/ckpt")
    time.sleep(options.pause)

def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

pixels = b"".join(b"\\0" + bytes([shade, 120, 200] * 8) for shade in range(0, 256, 32))
with open("samples/final.png", "wb") as file:
    head = struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0)
    file.write(b"\\x89PNG\\r\\n\\x1a\\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(pixels)) + chunk(b"IEND", b""))
open("samples/words.txt", "w").write("Once there was a yard.")
open("out/weights.safetensors", "wb").write(bytes(1000))
"""
MANIFEST = """
outputs = ["out/*.safetensors"]
checkpoints = ["out/ckpt"]
resume = ["--resume", "{checkpoint}"]

[parameters.steps]
type = "int"
default = 30
minimum = 1
maximum = 100000
"""


@dataclass
class Yard:
    """A yard whose worker has a sandbox, and a machine whose owner lets scripts run."""

    alice: Member
    agent: AgentProcess
    machine: int
    script: int

    def order(self, place: str, name: str, **parameters: object) -> int:
        if place == "server":
            return self.on_server(name, self.script, **parameters)
        folder = self.agent.root / name
        folder.mkdir()
        (folder / "train.py").write_text(TRAIN)
        (folder / "yard.toml").write_text(MANIFEST)
        return self.alice.new_job(name, {"agent": self.machine}, parameters, recipe="script", local_path=str(folder))

    def on_server(self, name: str, script: int, **parameters: object) -> int:
        """Order it once the worker is there and has tried its walls."""

        def order() -> int | None:
            try:
                return self.alice.new_job(name, "server", parameters, script, recipe="script")
            except Refused as refusal:
                if refusal.status != 503:
                    raise
                return None

        return until(order, 60, "a worker of the server takes scripts")


@pytest.fixture(scope="module")
def yard(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Yard]:
    if not shutil.which("bwrap"):
        pytest.skip("bubblewrap is not installed")
    folder = tmp_path_factory.mktemp("scripts")
    packed = folder / "project.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("project/train.py", TRAIN)
        archive.writestr("project/yard.toml", MANIFEST)
    with RunningYard(folder / "yard") as running:
        alice = Member.signed_up(running.url, "alice", "enterprise")
        script = alice.new_dataset(packed, kind="script")["id"]
        with AgentProcess(running, alice.new_key()["key"], folder / "agent", options=["--allow-scripts"]) as agent:
            yield Yard(alice, agent, agent.wait_online(alice)["id"], script)


@pytest.mark.parametrize("place", ["server", "agent"])
def test_log_curve_samples_and_files_of_a_script_are_on_its_page(yard: Yard, place: str) -> None:
    job = yard.order(place, f"whole-{place}", values={"steps": 30})
    done = yard.alice.wait_for_status(job, "completed", seconds=120)
    assert yard.alice.curve(job) == [[step, round(3 / step, 4)] for step in range(1, 31)]
    assert yard.alice.log(job).splitlines() == [f"iter {s}: loss {3 / s:.4f}, time 20.00ms" for s in range(1, 31)]
    assert (done["total_steps"], done["base_model"], done["error"]) == (30, "none", None)
    assert done["debugData"]["attempts"][0]["log_verified"]
    names = {file["name"]: file["bytes"] for file in yard.alice.get(f"/api/training-jobs/{job}/artifacts")}
    assert names["out/weights.safetensors"] == 1000 and set(names) == {"out/weights.safetensors", "run.json"}
    samples = {item["name"]: item for item in yard.alice.get(f"/api/training-jobs/{job}/samples")["items"]}
    assert samples["words.txt"]["text"] == "Once there was a yard."
    assert yard.alice.ask("GET", samples["final.png"]["url"]).body.startswith(b"\x89PNG")
    if place == "server":
        receipt_adds_up(yard.alice, job)


@pytest.mark.parametrize("place", ["server", "agent"])
def test_a_stopped_script_goes_on_from_its_checkpoint(yard: Yard, place: str) -> None:
    job = yard.order(place, f"resumed-{place}", values={"steps": 400})
    yard.alice.wait_for_step(job, 20)
    yard.alice.order(job, "stop")
    reached = yard.alice.wait_for_status(job, "paused")["step"]
    yard.alice.order(job, "resume")
    yard.alice.wait_for_status(job, "completed", seconds=120)
    lines = [int(line.split()[1].rstrip(":")) for line in yard.alice.log(job).splitlines() if line.startswith("iter")]
    begun = lines.index(reached) + 1
    assert lines[:begun] == list(range(1, reached + 1))
    assert lines[begun] in (reached, reached + 1) and lines[begun:] == list(range(lines[begun], 401))
    assert [step for step, _ in yard.alice.curve(job)] == list(range(1, 401))


def test_a_script_in_the_sandbox_sees_nothing_of_the_server(yard: Yard, tmp_path: Path) -> None:
    spy = """
import json, os, socket
found = {"environment": sorted(os.environ), "root": sorted(os.listdir("/"))}
for path in ("THE SERVER'S OWN", os.path.expanduser("~root"), "/etc/shadow", "/var/lib"):
    found[path] = os.path.exists(path)
try:
    socket.create_connection(("127.0.0.1", 5432), 1)
    found["network"] = True
except OSError:
    found["network"] = False
print(json.dumps(found))
"""
    program = str(Path(__file__).parents[2] / "app.py")
    packed = tmp_path / "spy.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("main.py", spy.replace("THE SERVER'S OWN", program))
    script = yard.alice.new_dataset(packed, kind="script")["id"]
    job = yard.on_server("spy", script)
    yard.alice.wait_for_status(job, "completed", seconds=120)
    found = json.loads(yard.alice.log(job).splitlines()[0])
    assert not any(
        name.startswith(("SECRET", "DATABASE", "REDIS", "STRIPE", "VAR_DIR", "AWS")) for name in found["environment"]
    )
    assert not any(found[path] for path in (program, "/etc/shadow", "/var/lib")) and not found["network"]


def test_a_machine_without_leave_is_asked_for_it(yard: Yard, tmp_path: Path) -> None:
    with pytest.raises(Refused) as refusal:
        yard.alice.new_job("outside", {"agent": yard.machine}, {}, recipe="script", local_path="/etc")
    assert refusal.value.status == 422
    job = yard.alice.new_job(
        "nothing", {"agent": yard.machine}, {}, recipe="script", local_path=f"{yard.agent.root}/none"
    )
    failed = until(lambda: (j := yard.alice.job(job))["status"] == "failed" and j, 30, "the machine refuses")
    assert failed["error"]["cause"] == "data" and "no folder" in failed["error"]["message"]
