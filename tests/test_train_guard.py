"""A step that would spoil the weights is not taken, and no step waits for the device."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ArrayLog, body_tree
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode

from multisense.checkpoint import checkpoints
from multisense.objectives.latent import LatentPrediction, Losses
from multisense.run import build_objective, make_grids, parse_config
from multisense.statistics import fit_statistics
from multisense.train import train
from multisense.train.guard import ENOUGH, WINDOW, SpikeError, SpikeGuard
from multisense.train.loop import Step
from multisense.train.optimizer import make_optimizer


def judged(guard: SpikeGuard, loss: float, norm: float = 1.0) -> bool:
    return bool(guard.judge(torch.tensor(loss), torch.tensor(norm)))


def steady(guard: SpikeGuard, count: int) -> None:
    for i in range(count):
        assert not judged(guard, 1.0 + 0.05 * (-1) ** i, 2.0 + 0.1 * (-1) ** i)


@pytest.mark.parametrize(
    ("loss", "norm"), [(torch.nan, 1), (torch.inf, 1), (1, torch.nan), (1, torch.inf), (1.6, 2), (1, 3.2)]
)
def test_what_is_not_finite_or_ten_deviations_off_is_skipped(loss: float, norm: float):
    guard = SpikeGuard(10.0)
    steady(guard, 50)
    before = guard.seen.clone()
    assert judged(guard, loss, norm)
    assert torch.equal(guard.seen, before)
    assert (int(guard.count), int(guard.skipped), int(guard.in_a_row)) == (50, 1, 1)
    assert not judged(guard, 1.4, 2.9)  # eight and nine deviations off
    assert int(guard.in_a_row) == 0


def test_a_window_forgets():
    guard = SpikeGuard(10.0)
    steady(guard, 50)
    for _ in range(WINDOW):
        assert not judged(guard, 1.2, 2.0)
    assert float(guard.seen[0].min()) == pytest.approx(1.2)
    assert judged(guard, 1.35, 2.0), "a plateau: a tenth above its mean is the limit"


def test_the_first_steps_may_be_anything_finite():
    guard = SpikeGuard(10.0)
    assert not any(judged(guard, 10.0**i) for i in range(ENOUGH))
    assert judged(SpikeGuard(10.0), torch.nan)


def test_skips_in_a_row_are_seen_though_nobody_looked_at_the_time():
    guard = SpikeGuard(10.0)
    for loss in [1.0] * 30 + [torch.nan] * 5 + [1.0]:
        judged(guard, loss, 1.0)
    with pytest.raises(SpikeError, match="5 steps in a row"):
        guard.refuse_to_go_on(4, "run")
    guard.refuse_to_go_on(4, "run")  # once told


def test_what_was_usual_is_forgotten_where_data_are_others():
    guard = SpikeGuard(10.0)
    for _ in range(30):
        judged(guard, 1.0, 1.0)
    assert judged(guard, 100.0, 1.0)
    guard.forget()
    assert not judged(guard, 100.0, 1.0)


def test_falling_losses_and_gradients_are_healthy():
    guard = SpikeGuard(10.0)
    assert not any(judged(guard, 3.0 * 0.99**i, 5.0 * 0.98**i) for i in range(400))


def test_a_skipped_step_leaves_every_weight_and_moment(body_logs: list[ArrayLog]):
    config = parse_config(body_tree())
    objective = build_objective(config, make_grids(config, body_logs))
    optimizer = make_optimizer(objective, config.train)
    for skip in (0.0, 1.0):
        for parameter in objective.student.parameters():
            parameter.grad = torch.full_like(parameter, torch.nan if skip else 1.0)
        before = [p.clone() for p in objective.student.parameters()]
        moments = [{k: v.clone() for k, v in state.items()} for state in optimizer.state.values()]
        optimizer.found_inf = torch.tensor(skip)  # type: ignore[attr-defined]
        optimizer.step()
        same = [torch.equal(a, b) for a, b in zip(before, objective.student.parameters(), strict=True)]
        assert all(same) if skip else not any(same)
    after = [{k: v.clone() for k, v in state.items()} for state in optimizer.state.values()]
    assert all(torch.equal(a[k], b[k]) for a, b in zip(moments, after, strict=True) for k in a)


@pytest.fixture
def in_memory(monkeypatch: pytest.MonkeyPatch, body_logs: list[ArrayLog]) -> None:
    monkeypatch.setattr("multisense.run.open_logs", lambda path: body_logs)
    monkeypatch.setattr(
        "multisense.train.loop.fit_statistics", lambda student, clips, count: fit_statistics(student, clips, 16)
    )


def spoil(monkeypatch: pytest.MonkeyPatch, calls: range) -> None:
    """The loss of some steps is not a number."""
    forward, count = LatentPrediction.forward, iter(range(10**6))

    def spoiled(self: LatentPrediction, *inputs: object) -> Losses:
        losses = forward(self, *inputs)  # type: ignore[arg-type]
        factor = torch.nan if next(count) in calls else 1.0
        return Losses(losses.total * factor, losses.directions, losses.latents * factor, losses.valid)

    monkeypatch.setattr(LatentPrediction, "forward", spoiled)


def test_a_run_outlives_a_bad_step(tmp_path: Path, in_memory: None, monkeypatch: pytest.MonkeyPatch):
    spoil(monkeypatch, range(2, 3))
    out = train(parse_config(body_tree(steps=6, save_every=1, keep_last=9)), tmp_path / "run")
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["skipped"] for line in lines] == [0, 0, 1, 1, 1, 1]
    steps = [load_file(folder / "objective.safetensors") for folder in checkpoints(out)]
    student = [k for k in steps[0] if k.startswith("student") or "moments" in k]
    assert all(torch.equal(steps[2][k], steps[3][k]) for k in student)
    assert not all(torch.equal(steps[3][k], steps[4][k]) for k in student)
    assert all(v.isfinite().all() for v in steps[-1].values())


def test_a_run_that_has_lost_its_way_ends_with_what_it_was(
    tmp_path: Path, in_memory: None, monkeypatch: pytest.MonkeyPatch
):
    spoil(monkeypatch, range(3, 100))
    config = parse_config(body_tree(steps=50, save_every=2, skip_most=4))
    with pytest.raises(
        SpikeError, match=r"step 8; its last checkpoint is 6: found 5 steps in a row .* at most 4 \(train"
    ):
        train(config, tmp_path / "run")


READING = ("_local_scalar_dense", "nonzero", "masked_select", "unique")
"""Operations that read values on the host: on a GPU each would wait for all work before it."""


class Reads(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.called: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.called.add(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_step_waits_for_no_device(tmp_path: Path, in_memory: None, monkeypatch: pytest.MonkeyPatch, accumulate: int):
    take, found = Step.take, []

    def profiled(self: Step, number: int) -> list[Losses]:
        ready = [next(self.batches) for _ in range(accumulate)]  # loading is not of the step
        self.batches = itertools.chain(ready, self.batches)
        with Reads() as seen:
            losses = take(self, number)
        found.append(seen.called)
        return losses

    monkeypatch.setattr(Step, "take", profiled)
    tree = body_tree(steps=3, accumulate=accumulate)
    tree["objective"] |= {"signal": 1.0, "contrast": 0.5}
    train(parse_config(tree), tmp_path / "run")
    assert len(found) == 3
    for called in found:
        assert {"aten._fused_adamw_.default", "aten.addmm.default"} <= called, "the mode saw the step"
        assert not [name for name in called if any(read in name for read in READING)]
