"""Which windows of which logs a probe is trained and tested on, for which labels: decided before anything is embedded."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from multisense.clips import Windows
from multisense.evaluate.scores import resamples
from multisense.evaluate.splits import Split, groups_of, leave_one_out
from multisense.evaluate.windows import Labelled, SignalLabels, Target, label_names, targets

KINDS = ("linear", "knn", "attentive")


@dataclass(frozen=True)
class Protocol:
    """How to probe."""

    probe: str = "linear"
    """linear, knn or attentive"""
    budgets: tuple[float, ...] = (1.0,)
    """Shares of the training logs, drawn anew for every seed; never fewer than two, nor than hold every class."""
    group: str | None = None
    """Leave one group of logs out after the other, by this label of a log, in the place of training and held-out logs."""
    seeds: int = 5
    """Repeats where chance has a part: budgets below 1, attentive probes."""
    stride_s: float | None = None
    """From one window to the next; half a clip by default."""

    def __post_init__(self) -> None:
        if self.probe not in KINDS:
            raise ValueError(f"--probe {self.probe}: expected one of {', '.join(KINDS)}")
        if not self.budgets or not all(0 < share <= 1 for share in self.budgets):
            raise ValueError(f"--budget: found shares {self.budgets}; expected per cents above 0 and up to 100")
        if self.seeds < 1:
            raise ValueError(f"--seeds {self.seeds}: expected at least 1")

    def repeats(self, budget: float) -> int:
        return self.seeds if budget < 1 or self.probe == "attentive" else 1


def parse_budgets(text: str) -> tuple[float, ...]:
    """Shares of logs from per cents: "1,10,100" -> (0.01, 0.1, 1.0)."""
    try:
        return tuple(float(part) / 100 for part in text.split(","))
    except ValueError:
        raise ValueError(f"--budget {text}: expected per cents separated by commas, such as 1,10,100") from None


@dataclass(frozen=True)
class Samples:
    """N windows, what is known of them, and how they are split."""

    targets: Mapping[str, Target]
    log: np.ndarray
    """(N,) number of the log of each window"""
    unit: np.ndarray
    """(N,) the held-out log or group that each window counts for"""
    splits: Sequence[Split]
    weights: np.ndarray
    """(K, U) from `resamples`"""


def take_samples(windows: Windows, training: int, protocol: Protocol, wanted: Sequence[str], seed: int) -> Samples:
    """The samples of windows of which the first `training` logs are for training, or none where groups are left out.

    Labels are those `wanted`, by default all that both sides have. Raises ValueError for one that is not there.
    """
    logs: Sequence[Labelled] = windows.logs
    if not any(log.labels for log in logs):
        logs = [SignalLabels.of(log, list(windows.grids)) for log in windows.logs]
    known = label_names(logs) if protocol.group else label_names(logs[:training], logs[training:])
    if not known or set(wanted) - set(known):
        raise ValueError(f"--label {', '.join(wanted)}: known on both sides are {known or 'no labels at all'}")
    log = np.array([number for number, _ in windows.index], dtype=int)
    if protocol.group:
        unit = groups_of(logs, protocol.group)[log]
        splits = leave_one_out(unit)
    else:
        unit, splits = log - training, [(np.flatnonzero(log < training), np.flatnonzero(log >= training))]
    if any(len(side) == 0 for split in splits for side in split):
        raise ValueError(f"none of the training or of the held-out logs is as long as one clip of {windows.seconds} s")
    found = targets(logs, windows.index, windows.seconds, wanted or [n for n in known if n != protocol.group])
    return Samples(found, log, unit, splits, resamples(int(unit.max()) + 1, seed=seed))


def labels_to_probe(samples: Samples) -> tuple[list[str], dict[str, str]]:
    """Names of the labels that can be probed, and for every other one why it cannot."""
    reasons = {name: _unusable(target, samples) for name, target in samples.targets.items()}
    names = [name for name, reason in reasons.items() if not reason]
    if not names:
        raise ValueError(f"no label can be probed: {reasons}")
    return names, {name: reason for name, reason in reasons.items() if reason}


def _unusable(target: Target, samples: Samples) -> str:
    """Why a label cannot be probed; empty where it can."""
    for train, test in samples.splits:
        train, test = (side[target.present[side]] for side in (train, test))
        logs = len(np.unique(samples.log[train]))
        if logs < 2:
            return f"known in {logs} training log(s); choosing the regularisation by logs needs two"
        if (target.values[train] == target.values[train[0]]).all():
            return f"the same value in all {len(train)} training windows"
        new = np.setdiff1d(target.values[test], target.values[train])
        if target.is_class and len(samples.splits) > 1 and len(new):
            return f"class {new[0]} is in one group only: left out, no probe can know it"
    held = held_out(target, samples)
    if len(held) == 0:
        return "known in no held-out window"
    same = (target.values[held] == target.values[held[0]]).all()
    return f"the same value in all {len(held)} held-out windows" if same else ""


def held_out(target: Target, samples: Samples) -> np.ndarray:
    """Indices of the held-out windows where the target is present."""
    rows = np.concatenate([test for _, test in samples.splits])
    return rows[target.present[rows]]
