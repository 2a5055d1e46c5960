"""AdamW, clipping and schedules are those of the field; the fingerprint of the state misses no bit."""

import pytest
import torch
from tests.trainer.formations import a_config
from torch import nn

from finetune_trainer.optimise import AdamW, FlatState, adamw_of, clip, learning_rate, update


def a_state(size=40):
    parameters = {"a": nn.Parameter(torch.randn(size, generator=torch.Generator().manual_seed(0)))}
    return parameters, FlatState(parameters, torch.device("cpu"))


@pytest.mark.parametrize(("betas", "epsilon"), [((0.9, 0.999), 1e-8), ((0.8, 0.95), 1e-3)])
def test_ten_steps_equal_those_of_torchs_adamw(betas, epsilon):
    parameters, state = a_state()
    theirs = nn.Parameter(state.weights_P.clone())
    reference = torch.optim.AdamW([theirs], lr=1e-2, betas=betas, eps=epsilon, weight_decay=0.1, foreach=False)
    adamw = AdamW(beta1=betas[0], beta2=betas[1], epsilon=epsilon, weight_decay=0.1)
    generator = torch.Generator().manual_seed(1)
    for step in range(1, 11):
        theirs.grad = torch.randn(40, generator=generator)
        update(state, theirs.grad.clone(), adamw, step=step, rate=1e-2)
        reference.step()
    torch.testing.assert_close(state.weights_P, theirs.detach(), rtol=1e-5, atol=1e-6)
    assert parameters["a"].data_ptr() == state.weights_P.data_ptr()


def test_a_job_that_says_nothing_of_adamw_trains_with_the_settings_of_the_field(inputs):
    training = a_config(inputs / "qwen3", inputs / "rows.jsonl").training
    assert adamw_of(training) == AdamW(beta1=0.9, beta2=0.999, epsilon=1e-8, weight_decay=training.weight_decay)


def test_clipping_scales_long_gradients_only():
    long, short = torch.full((4,), 3.0), torch.full((4,), 0.1)
    assert clip(long, 1.0) == pytest.approx(6.0)
    assert float(long.norm()) == pytest.approx(1.0, rel=1e-4)
    assert clip(short, 1.0) == pytest.approx(0.2)
    assert short.tolist() == pytest.approx([0.1] * 4)


@pytest.mark.parametrize(
    ("schedule", "step", "expected"),
    [
        ("cosine", 0, 0.1),
        ("cosine", 9, 1.0),
        ("cosine", 10, 1.0),
        ("cosine", 55, 0.5),
        ("linear", 55, 0.5),
        ("linear", 99, 1 / 90),
        ("constant", 99, 1.0),
        ("constant", 4, 0.5),
    ],
)
def test_the_rate_warms_up_and_then_follows_its_schedule(schedule, step, expected, inputs):
    changes = {"schedule": schedule, "warmupRatio": 0.1, "learningRate": 2.0}
    training = a_config(inputs / "qwen3", inputs / "rows.jsonl", training=changes).training
    assert learning_rate(training, step, 100) == pytest.approx(2 * expected)


@pytest.mark.parametrize("place", [0, 1, 59, 119])
def test_the_fingerprint_sees_a_flipped_bit(place):
    _, state = a_state()
    before = state.fingerprint()
    state.state_3P.view(torch.int32)[place] ^= 1
    assert not torch.equal(before, state.fingerprint())


def test_the_fingerprint_sees_two_values_that_changed_places():
    _, state = a_state()
    before = state.fingerprint()
    state.weights_P[[3, 30]] = state.weights_P[[30, 3]]
    assert not torch.equal(before, state.fingerprint())
