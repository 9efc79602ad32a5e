"""A run that is killed anywhere goes on as if it had not been: byte for byte."""

import contextlib
import json
import multiprocessing
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import body_log, body_tree
from safetensors.torch import load_file

from multisense.checkpoint import TrainingState, checkpoints, load_optimizer, load_weights, save_checkpoint, saved_step
from multisense.logs import Recording, write_log
from multisense.run import RunConfig, build_objective, holds_run, load_config, make_grids, parse_config
from multisense.train import train
from multisense.train.guard import make_guard
from multisense.train.optimizer import make_optimizer

STEPS, KILLS = 200, 20


def live(config: Path, out: Path) -> None:
    """One life of a run: begins, or goes on."""
    torch.set_num_threads(1)
    train(load_config(config), out, resume=holds_run(out))


def written(folder: Path) -> Path:
    for number in range(4):
        log = body_log(number)
        recordings = {n: Recording(m, rate, data, times) for n, (m, rate, times, data) in log.streams.items()}
        write_log(folder / "logs" / f"{log.name}.h5", recordings)
    tree = body_tree(steps=STEPS, save_every=5, log_every=5, keep_last=2, keep_every=50)
    tree["data"]["train"] = str(folder / "logs")
    (folder / "run.yaml").write_text(json.dumps(tree))
    return folder / "run.yaml"


def sign_of_life(out: Path) -> tuple[int, ...]:
    return tuple(int(folder.name) for folder in checkpoints(out))


@pytest.mark.slow
def test_twenty_kills_change_no_byte(tmp_path: Path):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["multisense.train"])
    config, rng = written(tmp_path), np.random.default_rng(0)
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    process = context.Process(target=live, args=(config, straight))
    process.start()
    process.join(300)
    assert process.exitcode == 0

    for kill in range(KILLS):
        before = sign_of_life(killed)
        process = context.Process(target=live, args=(config, killed))
        process.start()
        while kill % 4 and sign_of_life(killed) == before and process.is_alive():  # every fourth dies while it starts
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.25))
        process.kill()
        process.join()
    assert holds_run(killed)
    assert 0 < saved_step(killed) < STEPS, "the kills came too late, or the run never went on"
    process = context.Process(target=live, args=(config, killed))
    process.start()
    process.join(300)
    assert process.exitcode == 0

    for file in ("objective", "optimizer", "guard"):
        ours, theirs = (
            (out / f"checkpoints/{STEPS:08d}/{file}.safetensors").read_bytes() for out in (straight, killed)
        )
        assert ours == theirs, file
    assert (straight / "model.safetensors").read_bytes() == (killed / "model.safetensors").read_bytes()
    assert timeless(straight) == timeless(killed)
    assert sign_of_life(killed) == sign_of_life(straight) == (50, 100, 150, 195, 200)
    assert not list(killed.glob("checkpoints/.*"))


def timeless(out: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "clips_per_second"} for line in lines]


class Power(Exception):
    """It went off."""


class Alone:
    """What a checkpoint asks of Accelerate, for one process."""

    is_main_process, scaler = True, None

    def wait_for_everyone(self) -> None:
        pass


def state_of(config: RunConfig) -> TrainingState:
    objective = build_objective(config, make_grids(config, [body_log(0)]))
    optimizer = make_optimizer(objective, config.train)
    for parameter in objective.student.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return TrainingState(objective, optimizer, make_guard(config.train), config.train, {})


def ends_at(monkeypatch: pytest.MonkeyPatch, end: int) -> None:
    """The power goes off at call number `end` to whatever touches the disk."""
    calls = []

    def until_the_end(function: Callable) -> Callable:
        def call(*arguments: object, **more: object) -> object:
            calls.append(function)
            if len(calls) == end:
                raise Power
            return function(*arguments, **more)

        return call

    names = [
        (os, "fsync"),
        (os, "open"),
        (shutil, "rmtree"),
        *((Path, n) for n in ("rename", "mkdir", "write_text", "replace")),
    ]
    for owner, name in names:
        monkeypatch.setattr(owner, name, until_the_end(getattr(owner, name)))


@pytest.mark.parametrize("end", range(1, 40))
def test_a_write_that_ends_anywhere_leaves_a_whole_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: int
):
    state = state_of(parse_config(body_tree(keep_last=1)))
    filled(state, 3)
    save_checkpoint(tmp_path, state, 3, Alone())
    filled(state, 6)
    with monkeypatch.context() as patch, contextlib.suppress(Power):
        ends_at(patch, end)
        save_checkpoint(tmp_path, state, 6, Alone())
    again = state_of(parse_config(body_tree()))
    step = load_weights(tmp_path, again.objective, again.guard, is_main=True)
    load_optimizer(tmp_path, again, None)
    assert step in (3, 6)
    assert (again.objective.student.sensor_embedding == step).all()
    model = load_file(tmp_path / "model.safetensors")  # what embedding reads is of the same step again
    assert torch.equal(model["sensor_embedding"], again.objective.teacher.sensor_embedding)
    save_checkpoint(tmp_path, state, 9, Alone())
    assert [folder.name for folder in (tmp_path / "checkpoints").iterdir()] == ["00000009"]


def filled(state: TrainingState, value: float) -> None:
    with torch.no_grad():
        state.objective.student.sensor_embedding.fill_(value)
        state.objective.teacher.sensor_embedding.fill_(value)
