from __future__ import annotations

import pytest
import torch

from agent.training import optimizer


def small() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.LayerNorm(8), torch.nn.Linear(8, 1))


def test_the_rate_climbs_over_three_percent_of_the_steps_and_ends_at_a_tenth() -> None:
    rates = [optimizer.learning_rate(step, 100, 2.0) for step in range(1, 101)]
    assert rates[:3] == pytest.approx([2 / 3, 4 / 3, 2.0])
    assert max(rates) == rates[2]
    assert rates[3:] == sorted(rates[3:], reverse=True)
    assert rates[-1] == pytest.approx(0.2)
    assert optimizer.learning_rate(3 + 97 // 2, 100, 2.0) == pytest.approx(1.1, abs=0.02)  # half-way down


@pytest.mark.parametrize("total", [1, 2, 33])
def test_short_jobs_have_a_rate_for_every_step(total: int) -> None:
    rates = [optimizer.learning_rate(step, total, 1.0) for step in range(1, total + 1)]
    assert all(0.1 <= rate <= 1.0 for rate in rates)
    assert rates[0] == 1.0


def test_gradients_are_cut_to_a_norm_of_one_and_the_norm_before_is_told() -> None:
    model = small()
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 3.0)
    count = sum(parameter.numel() for parameter in model.parameters())
    assert optimizer.clip(model) == pytest.approx(3.0 * count**0.5)
    norms = torch.stack([p.grad.norm() for p in model.parameters() if p.grad is not None])
    assert float(norms.norm()) == pytest.approx(1.0, rel=1e-4)


def test_biases_and_norms_are_not_decayed_and_frozen_weights_not_touched() -> None:
    model = small()
    model[0].weight.requires_grad = False  # type: ignore[index]
    groups = optimizer.build(model).param_groups
    assert [(group["weight_decay"], len(group["params"])) for group in groups] == [(0.01, 1), (0.0, 4)]


def test_the_state_of_the_optimizer_survives_as_plain_tensors() -> None:
    model, other = small(), small()
    first, second = optimizer.build(model), optimizer.build(other)

    def step(trained: torch.nn.Module, by: torch.optim.AdamW) -> None:
        trained(torch.ones(2, 4)).sum().backward()
        optimizer.update(by, 0.01)

    step(model, first)
    tensors = {name: tensor.clone() for name, tensor in optimizer.state_tensors(model, first).items()}
    assert "0.weight|exp_avg_sq" in tensors
    other.load_state_dict(model.state_dict())
    optimizer.load_state(other, second, tensors)
    step(model, first)
    step(other, second)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True))


def test_a_state_of_other_parameters_is_refused() -> None:
    with pytest.raises(KeyError):
        optimizer.load_state(small(), optimizer.build(small()), {"elsewhere|step": torch.zeros(())})
