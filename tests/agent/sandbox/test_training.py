"""What an honest training needs works inside: torch, loader processes, shared memory, a group over the box's own loopback."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from agent.sandbox import Box, Limits
from tests.agent.sandbox.conftest import groups

TRAINING = """
import torch, torch.distributed
from torch.utils.data import DataLoader, TensorDataset
if __name__ == "__main__":
    model = torch.nn.Linear(8, 1)
    optimizer = torch.optim.SGD(model.parameters())
    for (rows,) in DataLoader(TensorDataset(torch.randn(32, 8)), batch_size=8, num_workers=2):
        optimizer.zero_grad()
        model(rows).pow(2).mean().backward()
        optimizer.step()
    torch.distributed.init_process_group("gloo", init_method="tcp://127.0.0.1:29500", rank=0, world_size=1)
    torch.distributed.barrier()
    torch.save(model.state_dict(), "model.pt")
    print("trained")
"""


@pytest.mark.timeout(180)
def test_an_unmodified_torch_script_trains(lane: int, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    (work / "train.py").write_text(TRAINING)
    with (
        open(tmp_path / "printed", "w+b") as printed,
        Box(work, Limits(), lane).start([sys.executable, "train.py"], printed.fileno()) as running,
    ):
        verdict = running.verdict(running.wait(150))
        printed.seek(0)
        output = printed.read().decode()
    assert verdict.status == "ok", output
    assert output.endswith("trained\n") and (work / "model.pt").stat().st_size > 100
    assert groups() == set()
