"""Failures planted into real, tiny trainings raise their alarms; healthy trainings raise none."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from conftest import ArrayLog, body_tree

from multisense.clips import TrainingClips, collate
from multisense.health import alarms, held_out, measure
from multisense.masking import draw_masks
from multisense.run import build_objective, make_grids, parse_config
from multisense.statistics import copy_statistics, fit_statistics

STEPS, WARMUP, BATCH, POOL = 100, 60, 16, 120
MEASURED = (60, 80, 100)
Spoil = Callable[[ArrayLog], ArrayLog]


def slow_body(number: int) -> ArrayLog:
    """A body whose one hidden angle hardly moves within a clip: a hundred steps are enough to learn it."""
    rng = np.random.default_rng(number)
    times = np.arange(3 * 8000) / 8000
    angle = rng.uniform(0, 2 * np.pi) + rng.uniform(-0.5, 0.5) * times
    tones = [np.sin(2 * np.pi * f * times) * (1.2 + x) / 4 for f, x in ((400, np.sin(angle)), (1500, np.cos(angle)))]
    sound = (sum(tones) + 0.01 * rng.normal(size=len(times))).astype(np.float32)
    times, angle = times[::80], angle[::80]
    pad = np.stack([np.sin(angle), np.cos(angle)], 1)
    arm = pad @ [[1.0, 0.5], [-0.5, 1.0]]
    pad, arm = ((x + 0.1 * rng.normal(size=x.shape)).astype(np.float32) for x in (pad, arm))
    ear = ("audio", 8000.0, np.arange(3 * 8000) / 8000, sound)
    return ArrayLog(
        f"slow-{number}", {"ear": ear, "pad": ("touch", 100.0, times, pad), "arm": ("proprio", 100.0, times, arm)}
    )


def trained(
    seed: int = 0,
    rate: float = 5e-3,
    world: Callable[[int], ArrayLog] = slow_body,
    spoil: Spoil = lambda log: log,
    spoilt_from_the_start: bool = False,
    **objective: float,
) -> dict[str, str]:
    """Train a tiny model, measure it as training does, and return {sensor: kind} of the alarms that stand at the end.

    `spoil` changes every log: from the start, or after the statistics were fitted.
    """
    logs, others = ([world(100 * seed + n) for n in some] for some in (range(40), range(50, 70)))
    first = [spoil(log) for log in logs] if spoilt_from_the_start else logs
    tree = body_tree(steps=STEPS, batch_size=BATCH, seed=seed)
    tree["sensors"] = {name: tree["sensors"][name] for name in logs[0].streams}
    tree["objective"] |= {"masks": {"masks_per_clip": 2}, **objective}
    config = parse_config(tree)
    grids = make_grids(config, first)
    model = build_objective(config, grids)
    fit_statistics(model.student, TrainingClips(first, grids, 1.0, seed, POOL), count=64)
    copy_statistics(model.student, model.teacher)
    clips = TrainingClips([spoil(log) for log in logs], grids, 1.0, seed, POOL)
    pool = [clips[n] for n in range(POOL)]
    held = held_out([spoil(log) for log in others], grids, 1.0, 60)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, betas=(0.9, 0.95), weight_decay=0.04)
    history = [(0, measure(model, held))]
    model.train()
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1, (step + 1) / 10) * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / STEPS)))
        items = range(step * BATCH, (step + 1) * BATCH)
        masks = draw_masks(model.student.layout, config.objective.masks, seed, step, items)
        model(collate([pool[n % POOL] for n in items]), masks).total.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 3.0)
        optimizer.step()
        optimizer.zero_grad()
        model.update_teacher(STEPS)
        if step + 1 in MEASURED:
            history.append((step + 1, measure(model, held)))
    return {alarm.sensor: alarm.kind for alarm in alarms(history, WARMUP)}


def replaced(sensor: str, data: Callable[[np.ndarray], np.ndarray]) -> Spoil:
    """Logs in which one sensor's samples are others."""

    def spoil(log: ArrayLog) -> ArrayLog:
        modality, rate, times, before = log.streams[sensor]
        return ArrayLog(log.name, {**log.streams, sensor: (modality, rate, times, data(before))}, log.labels)

    return spoil


def white_noise(sound: np.ndarray) -> np.ndarray:
    """Other noise for every log, and the same each time the log is made."""
    return np.random.default_rng(abs(int(sound[0] * 1e9))).normal(size=sound.shape).astype(sound.dtype) / 10


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10))
def test_a_healthy_run_raises_no_alarm(seed: int):
    assert trained(seed) == {}


@pytest.mark.slow
def test_a_learning_rate_a_hundred_times_too_large_is_noticed():
    assert set(trained(rate=0.5).values()) & {"collapse", "diverging"}


@pytest.mark.slow
def test_a_sensor_that_falls_silent_is_named():
    assert trained(spoil=replaced("ear", np.zeros_like)) == {"ear": "constant"}


@pytest.mark.slow
def test_a_sensor_that_is_not_a_number_is_named():
    assert trained(spoil=replaced("ear", lambda sound: np.full_like(sound, np.nan))) == {"ear": "absent"}


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_a_mic_that_is_noise_is_named(seed: int):
    assert trained(seed, spoil=replaced("ear", white_noise), spoilt_from_the_start=True) == {"ear": "noise"}
