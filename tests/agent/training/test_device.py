from __future__ import annotations

import json
import os

import torch

from agent.training import device


def test_the_cpu_computes_the_same_bits_each_time() -> None:
    ready = device.prepare()
    if ready.kind == "cpu":
        assert ready.repeatable and torch.are_deterministic_algorithms_enabled()
        assert ready.threads == torch.get_num_threads() == device.physical_cores()


def test_no_more_threads_than_this_process_may_use() -> None:
    assert 1 <= device.physical_cores() <= len(os.sched_getaffinity(0))


def test_a_half_precision_device_is_not_called_repeatable() -> None:
    half = device.Device("cpu", "test", 1, torch.bfloat16)
    assert not half.repeatable and half.dtype_name == "bfloat16 autocast"
    with half.precision():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16


def test_what_decides_the_bits_is_recorded_as_json() -> None:
    ready = device.prepare()
    assert json.loads(json.dumps(ready.environment())) == ready.environment()
    assert {"torch", "threads", "name", "autocast"} <= set(ready.environment())
    assert "GB" in device.memory_figures("cpu")
