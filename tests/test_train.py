"""One process is many, a stopped run is a straight one, and what is written is what happened."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState, GradientState, PartialState
from conftest import ArrayLog, body_log, body_tree
from safetensors.torch import load_file

from multisense.checkpoint import checkpoints, saved_step
from multisense.cli import app
from multisense.clips import TrainingClips
from multisense.config import ConfigError
from multisense.logs import Recording, write_log
from multisense.logs.base import LogError
from multisense.masking import draw_masks
from multisense.run import (
    RunConfig,
    TrainConfig,
    load_config,
    make_grids,
    open_run,
    parse_config,
    read_run,
    resume_differs,
    training_logs,
)
from multisense.statistics import fit_statistics
from multisense.train import train
from multisense.train.data import StepSampler, make_loader
from multisense.train.optimizer import learning_rate

METRICS_OF_THE_CLOCK = {"clips_per_second"}


def forget_accelerate() -> None:
    """Accelerate keeps its state for the whole process."""
    for state in (AcceleratorState, PartialState, GradientState):
        state._reset_state()


@pytest.fixture(autouse=True)
def fresh_accelerate() -> Iterator[None]:
    yield
    forget_accelerate()


@pytest.fixture
def in_memory(monkeypatch: pytest.MonkeyPatch, body_logs: list[ArrayLog]) -> list[ArrayLog]:
    """Training reads these logs instead of files, and takes statistics from few clips."""
    monkeypatch.setattr("multisense.run.open_logs", lambda path: body_logs)
    monkeypatch.setattr("multisense.train.loop.fit_statistics", partial(fit_statistics, count=16))
    return body_logs


def small(**settings: object) -> RunConfig:
    tree = body_tree(**settings)
    tree["objective"] |= {"masks": {"masks_per_clip": 2}, "ema_share": 0.5}  # so that teacher and student differ
    return parse_config(tree)


def metrics(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def timeless(out: Path) -> list[dict[str, float]]:
    return [{k: v for k, v in line.items() if k not in METRICS_OF_THE_CLOCK} for line in metrics(out)]


def weights(out: Path) -> dict[str, torch.Tensor]:
    """Everything a run ends with: student, teacher, predictor, optimizer."""
    found = {}
    for file in ("objective", "optimizer", "guard"):
        found |= {f"{file}/{k}": v for k, v in load_file(checkpoints(out)[-1] / f"{file}.safetensors").items()}
    return found


def settings(**values: object) -> TrainConfig:
    return TrainConfig(**{"steps": 5, "batch_size": 24, **values})


@pytest.mark.parametrize(("processes", "accumulate"), [(1, 1), (2, 1), (1, 3), (2, 3), (4, 2), (8, 3)])
@pytest.mark.parametrize("first", [0, 3])
def test_a_step_holds_the_same_clips_however_it_is_cut(processes: int, accumulate: int, first: int):
    samplers = [StepSampler(settings(accumulate=accumulate), first, p, processes) for p in range(processes)]
    batches = [list(sampler) for sampler in samplers]
    assert {len(b) for b in batches} == {len(s) for s in samplers} == {(5 - first) * accumulate}
    for number, step in enumerate(range(first, 5)):
        parts = [b[number * accumulate + part] for part in range(accumulate) for b in batches]
        assert [item for part in parts for item in part] == list(range(24 * step, 24 * step + 24))
        assert [list(s.items(step, part)) for part in range(accumulate) for s in samplers] == parts


def test_workers_load_the_same_batches(body_logs: list[ArrayLog]):
    tree = body_tree()
    batches = []
    for workers in (0, 2):
        tree["data"]["workers"] = workers
        config = parse_config(tree)
        clips = TrainingClips(body_logs, make_grids(config, body_logs), 1.0, 0, 16)
        batches.append(list(make_loader(clips, StepSampler(config.train, 1, 0, 1), config)))
    assert len(batches[0]) == 3
    for here, there in zip(*batches, strict=True):
        assert (here.logs, here.starts_s) == (there.logs, there.starts_s)
        assert all(torch.equal(here.values[n], there.values[n]) for n in here.values)


def test_the_learning_rate_is_a_function_of_the_step():
    cosine = settings(steps=110, warmup_steps=10, learning_rate=2.0)
    rates = [learning_rate(s, cosine) for s in range(110)]
    np.testing.assert_allclose(rates[:10], 2.0 * np.arange(1, 11) / 10)
    assert max(rates) == 2.0
    assert learning_rate(60, cosine) == pytest.approx(2.0 * (1 + 0.01) / 2)
    assert learning_rate(110, cosine) == pytest.approx(0.02)
    assert all(a >= b for a, b in pairwise(rates[10:]))
    constant = settings(steps=110, warmup_steps=0, learning_rate=2.0, schedule="constant")
    assert {learning_rate(s, constant) for s in range(110)} == {2.0}


def test_a_run_leaves_what_is_needed_to_use_and_to_resume_it(tmp_path: Path, in_memory: list[ArrayLog]):
    out = train(small(log_with=["tensorboard"], save_every=2), tmp_path / "run")
    assert {"config.yaml", "run.json", "metrics.jsonl", "model.safetensors", "predictor.safetensors"} <= {
        f.name for f in out.iterdir()
    }
    assert [line["step"] for line in metrics(out)] == [1, 2, 3, 4]
    expected = {"loss", "skill", "rank", "learning_rate", "clips_per_second", "spread/eye", "rank/arm"}
    assert all(expected <= line.keys() and np.isfinite(list(line.values())).all() for line in metrics(out))
    assert list(out.rglob("events.out.tfevents.*"))
    last = metrics(out)[-1]
    assert last["hours_seen"] == pytest.approx(4 * 4 * 1.0 / 3600, rel=1e-2)  # 4 steps of 4 clips of a second
    eye, ear, pad, arm = 10 * 32 * 32 * 3, 8000 * 4, 100 * 48 * 4, 100 * 3 * 4
    assert last["bytes_seen"] == 16 * (eye + ear + pad + arm)
    assert not [f for f in out.iterdir() if f.name.startswith(".")]
    assert saved_step(out) == 4
    run = open_run(out)
    saved = load_file(checkpoints(out)[-1] / "objective.safetensors")
    assert all(torch.equal(v, saved[f"teacher.{k}"]) for k, v in run.model.state_dict().items())
    assert not torch.equal(saved["teacher.sensor_embedding"], saved["student.sensor_embedding"])


def stop_at(monkeypatch: pytest.MonkeyPatch, stop: int) -> None:
    """Send this process a SIGTERM while it is in the step before `stop`."""
    sent = []

    def draw(*arguments: object) -> list:
        if arguments[3] == stop - 1 and not sent:  # a second signal would end the tests
            sent.append(True)
            os.kill(os.getpid(), signal.SIGTERM)
        return draw_masks(*arguments)

    monkeypatch.setattr("multisense.train.loop.draw_masks", draw)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_stopped_run_goes_on_as_if_it_had_not(
    tmp_path: Path, in_memory: list[ArrayLog], monkeypatch: pytest.MonkeyPatch, accumulate: int
):
    config = small(accumulate=accumulate)
    straight = train(config, tmp_path / "straight")
    handler = signal.getsignal(signal.SIGTERM)
    with monkeypatch.context() as patch:
        stop_at(patch, 2)
        stopped = train(config, tmp_path / "stopped")
    assert signal.getsignal(signal.SIGTERM) is handler
    assert [line["step"] for line in metrics(stopped)] == [1, 2]
    torch.manual_seed(99)
    train(config, stopped, resume=True)
    assert timeless(stopped) == timeless(straight)
    ours, theirs = weights(stopped), weights(straight)
    assert ours.keys() == theirs.keys()
    assert [k for k in ours if not torch.equal(ours[k], theirs[k])] == []
    assert any("exp_avg_sq" in k for k in ours)


def test_a_half_precision_run_follows_the_plain_one(tmp_path: Path, in_memory: list[ArrayLog]):
    ways = {"plain": {}, "half": {"mixed_precision": "bf16"}}
    losses = {}
    for way, changes in ways.items():
        losses[way] = [line["loss"] for line in metrics(train(small(**changes), tmp_path / way))]
        forget_accelerate()
    assert losses["half"] == pytest.approx(losses["plain"], rel=5e-2)
    assert losses["half"] != losses["plain"]
    saved = [load_file(tmp_path / way / "model.safetensors") for way in ways]
    assert saved[0].keys() == saved[1].keys()
    assert {v.dtype for v in saved[1].values() if v.is_floating_point()} == {torch.float32}


def test_weights_that_a_kill_left_behind_are_written_on_resume(tmp_path: Path, in_memory: list[ArrayLog]):
    out = train(small(), tmp_path / "run")
    whole = {name: (out / f"{name}.safetensors").read_bytes() for name in ("model", "predictor")}
    for name in whole:
        (out / f"{name}.safetensors").write_bytes(b"of the checkpoint before")
    train(small(), out, resume=True)
    assert {name: (out / f"{name}.safetensors").read_bytes() for name in whole} == whole


def test_a_run_that_goes_on_with_changes_says_with_what(tmp_path: Path, in_memory: list[ArrayLog]):
    """Else it would be embedded with the settings that it began with."""
    out = train(small(), tmp_path / "run")
    changed = small(learning_rate=5e-4)
    with pytest.raises(ConfigError, match=r"train.learning_rate was 0\.\d+, is 0.0005"):
        train(changed, out, resume=True)
    train(changed, out, resume=True, allow_changes=True)
    config, _, origin = read_run(out)
    assert config.train.learning_rate == 5e-4
    assert origin["before"]["data"] == origin["data"]
    train(changed, out, resume=True)  # nothing has changed since


def test_lines_after_the_checkpoint_are_written_again(tmp_path: Path, in_memory: list[ArrayLog]):
    out = train(small(), tmp_path / "run")
    with (out / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 5, "loss": 1.0}) + "\n")
    train(small(), out, resume=True)
    assert [line["step"] for line in metrics(out)] == [1, 2, 3, 4]


def test_a_batch_in_one_piece_is_the_batch_in_two(tmp_path: Path, in_memory: list[ArrayLog]):
    # AdamW's first steps are signs of gradients, which rounding may turn where they are near zero: compare its moments.
    whole = train(small(batch_size=8, steps=3), tmp_path / "whole")
    halves = train(small(batch_size=8, steps=3, accumulate=2), tmp_path / "halves")
    ours, theirs = weights(whole), weights(halves)
    for key in ours:
        if key.endswith(":exp_avg"):
            torch.testing.assert_close(ours[key], theirs[key], atol=1e-5, rtol=1e-2)
        elif key.startswith("objective/teacher"):
            torch.testing.assert_close(ours[key], theirs[key], atol=1e-3, rtol=1e-3)
    moved = [k for k in ours if k.endswith("exp_avg") and ours[k].abs().max() > 1e-4]
    assert len(moved) > 20


def test_a_batch_that_does_not_divide_is_told(tmp_path: Path, in_memory: list[ArrayLog]):
    with pytest.raises(ValueError, match=r"train.batch_size 4 does not divide into train.accumulate 3 x 1 processes"):
        train(small(accumulate=3), tmp_path / "run")


def test_a_run_that_is_there_is_not_written_over(tmp_path: Path, in_memory: list[ArrayLog]):
    out = train(small(steps=1), tmp_path / "run")
    before = (out / "model.safetensors").read_bytes()
    with pytest.raises(ConfigError, match="already holds a run; continue it with --resume"):
        train(small(steps=1), out)
    with pytest.raises(ConfigError, match=r"train.steps was 1, is 2"):
        train(small(steps=2), out, resume=True)
    assert (out / "model.safetensors").read_bytes() == before
    with pytest.raises(ConfigError, match="not a run"):
        train(small(), tmp_path / "nothing", resume=True)


@pytest.mark.parametrize("hold_out", [["body-001", "body-004"], []])
def test_held_out_logs_are_not_trained_on(
    tmp_path: Path, in_memory: list[ArrayLog], monkeypatch: pytest.MonkeyPatch, hold_out: list[str]
):
    read = set()
    original = ArrayLog.read
    monkeypatch.setattr(ArrayLog, "read", lambda log, *a: (read.add(log.name), original(log, *a))[1])
    tree = body_tree(steps=1)
    tree["data"]["hold_out"] = hold_out
    train(parse_config(tree), tmp_path / "run")
    assert read == {log.name for log in in_memory} - set(hold_out)


@pytest.mark.parametrize(
    ("hold_out", "text"),
    [
        (["body-009"], r"data.hold_out: \['body-009'\] are not logs of memory; it has \['body-000'"),
        ([f"body-00{n}" for n in range(6)], "data.hold_out: leaves none of the 6 logs of memory to train on"),
    ],
)
def test_a_hold_out_that_cannot_be_is_told(tmp_path: Path, in_memory: list[ArrayLog], hold_out: list[str], text: str):
    tree = body_tree()
    tree["data"]["hold_out"] = hold_out
    with pytest.raises(LogError, match=text):
        train(parse_config(tree), tmp_path / "run")


def test_logs_kept_in_memory_train_the_same(tmp_path: Path, in_memory: list[ArrayLog]):
    tree = body_tree(steps=2)
    here = train(parse_config(tree), tmp_path / "here")
    tree["data"]["in_memory"] = True
    there = train(parse_config(tree), tmp_path / "there")
    assert timeless(here) == timeless(there)


def test_logs_with_none_of_the_sensors_are_left_out_and_said(tmp_path: Path, in_memory: list[ArrayLog], capsys):
    del in_memory[2].streams["eye"]
    tree = body_tree(steps=2)
    tree["sensors"] = {"eye": tree["sensors"]["eye"]}
    run = train(parse_config(tree), tmp_path / "run")
    assert (
        "1 of 6 logs have none of the sensors ['eye'] and are not trained on: ['body-002']" in capsys.readouterr().err
    )
    assert read_run(run)[2]["logs"] == 5
    assert resume_differs(run, parse_config(tree), training_logs(parse_config(tree))) == []
    with pytest.raises(LogError, match=r"sensors\.nose: in none of the 6 logs"):
        train(parse_config({**tree, "sensors": {"nose": {"kind": "proprio"}}}), tmp_path / "other")


def written(folder: Path) -> Path:
    """Four native logs of the body, and the run configuration that reads them."""
    for number in range(4):
        log = body_log(number)
        recordings = {n: Recording(m, rate, data, times) for n, (m, rate, times, data) in log.streams.items()}
        write_log(folder / "logs" / f"{log.name}.h5", recordings, log.labels.values())
    tree = small().tree()
    tree["data"]["train"] = str(folder / "logs")
    (folder / "run.yaml").write_text(json.dumps(tree))
    return folder / "run.yaml"


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}


def command(config: Path, out: Path, overrides: Sequence[str]) -> list[str]:
    return ["-m", "multisense", "train", str(config), *overrides, "--out", str(out)]


TWO_PROCESSES = """
compute_environment: LOCAL_MACHINE
distributed_type: MULTI_CPU
num_machines: 1
num_processes: 2
machine_rank: 0
main_process_port: 0
use_cpu: true
mixed_precision: 'no'
"""


@pytest.mark.slow
def test_two_processes_are_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    config = written(tmp_path)
    (tmp_path / "two.yaml").write_text(TWO_PROCESSES)
    overrides = ["train.batch_size=8", "train.steps=3", "objective.signal=1.0", "objective.contrast=0.5"]
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(tmp_path / "two.yaml")]
    program = command(config, tmp_path / "two", overrides)
    two = subprocess.run([*launch, *program], env=environment(), capture_output=True, text=True, timeout=300)
    assert two.returncode == 0, two.stderr[-3000:]
    one = train(load_config(config, overrides), tmp_path / "one")
    ours, theirs = metrics(one), metrics(tmp_path / "two")
    assert [line["step"] for line in ours] == [line["step"] for line in theirs] == [1, 2, 3]
    np.testing.assert_allclose([line["loss"] for line in ours], [line["loss"] for line in theirs], atol=1e-5)
    a, b = weights(one), weights(tmp_path / "two")
    for key in a:
        if key.endswith((":exp_avg", "scale.moments")):
            torch.testing.assert_close(a[key], b[key], atol=1e-4, rtol=1e-2)


@pytest.mark.slow
def test_a_terminated_process_saves_says_so_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    config, out = written(tmp_path), tmp_path / "run"
    overrides = ["train.steps=2000", "train.save_every=1000", "data.workers=1"]
    program = [sys.executable, *command(config, out, overrides)]
    process = subprocess.Popen(
        program, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 200
    while not (out / "metrics.jsonl").exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGTERM)  # as schedulers do: also to the worker that loads
    said, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors[-3000:]
    step = saved_step(out)
    assert 1 <= step < 1000
    assert f"stopped at step {step} by SIGTERM; go on with --resume" in said

    # It goes on where it stopped; that it then does what a straight run does is tested above.
    stop_at(monkeypatch, step + 2)
    app([*program[3:], "--resume"], standalone_mode=False)
    assert [line["step"] for line in metrics(out)] == list(range(1, step + 3))
    assert saved_step(out) == step + 2
