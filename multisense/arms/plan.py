"""Which trainings an ablation needs: a model for every subset of the sensors, and for every part of the objective."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from multisense.config import ConfigError, read_tree, suggest
from multisense.evaluate.table import key, subsets
from multisense.run import RunConfig, parse_config

PARTS: Mapping[str, Mapping[str, Any]] = {
    "block": {"objective.masks.block": 0.0},
    "cross": {"objective.masks.cross": 0.0},
    "causal": {"objective.masks.causal": 0.0},
    "alone": {"objective.masks.alone": []},
    "signal": {"objective.signal": 0.0},
    "contrast": {"objective.contrast": 0.0},
    "ema": {"objective.ema_share": 1e-9},  # the teacher is the student of the step before
}
"""What `--without` may name, and what it sets."""
RESERVED = ("the run", "late fusion")
"""Names that the tables have for something else."""


@dataclass(frozen=True)
class Arm:
    """One training of an ablation; `folder` becomes a run."""

    name: str
    config: RunConfig
    folder: Path

    @property
    def sensors(self) -> tuple[str, ...]:
        return tuple(self.config.sensors)


def subset_arms(config: RunConfig, out: Path) -> list[Arm]:
    """One arm for every subset of the sensors but all of them, which is the run itself: same steps, same clips a step,
    same masks a clip but for those of the run's `masks.alone` sensors that the subset lacks."""
    names = list(config.sensors)
    chosen = [s for s in subsets(names) if len(s) < len(names)]
    return [_arm(key(s), _with(config, {"sensors": {n: config.tree()["sensors"][n] for n in s}}), out) for s in chosen]


def objective_arms(config: RunConfig, out: Path, without: Sequence[str], grid: Path | None) -> list[Arm]:
    """One arm for each part of the objective named in `without` (see PARTS), and for each entry of the YAML file `grid`:
    {arm: {key.path: value}}.

    Raises ConfigError for an unknown part, a grid that is no such mapping, or a key that no configuration has.
    """
    unknown = [part for part in without if part not in PARTS]
    if unknown:
        raise ConfigError(f"--without {unknown[0]}: no such part of the objective; {suggest(unknown[0], PARTS)}")
    sets: dict[str, Mapping[str, Any]] = {f"without {part}": PARTS[part] for part in without}
    for name, keys in (read_tree(grid) if grid else {}).items():
        if name in sets:
            raise ConfigError(f"{grid}: {name}: is the arm of --without, too; choose another name")
        if not isinstance(keys, Mapping):
            raise ConfigError(f"{grid}: {name}: expected a mapping of key.path: value, found {keys!r}")
        sets[name] = keys
    for name, keys in sets.items():
        _check(name, keys, config)
    return [_arm(name, _with(config, keys), out) for name, keys in sets.items()]


def _check(name: str, keys: Mapping[str, Any], config: RunConfig) -> None:
    """An arm is told by its name, has a folder of it, and is scored on the windows of the run."""
    if name in (*RESERVED, *map(key, subsets(list(config.sensors)))) or not re.fullmatch(r"[\w][\w .+=-]*", name):
        raise ConfigError(
            f"arm '{name}': expected letters, digits and .+=- in a name that is not of a subset of the sensors, nor "
            f"one of {', '.join(RESERVED)}"
        )
    other = [path for path in keys if path.partition(".")[0] == "data"]
    if other:
        raise ConfigError(f"arm '{name}': {other[0]}: arms are compared on the same clips of the same logs as the run")
    new = sorted({p.split(".")[1] for p in keys if p.startswith("sensors.")} - set(config.sensors))
    if new:
        raise ConfigError(
            f"arm '{name}': sensors.{new[0]}: the run has no such sensor; {suggest(new[0], config.sensors)}"
        )


def _with(config: RunConfig, keys: Mapping[str, Any]) -> Mapping[str, Any]:
    tree = OmegaConf.create(config.tree())
    for path, value in keys.items():
        OmegaConf.update(tree, path, value, merge=False)
    found: Any = OmegaConf.to_container(tree)
    masks = found["objective"]["masks"]  # a sensor that this arm lacks is not shown alone, either
    masks["alone"] = [n for n in masks["alone"] if n in found["sensors"] or n not in config.sensors]
    return {str(part): value for part, value in found.items()}


def _arm(name: str, tree: Mapping[str, Any], out: Path) -> Arm:
    try:
        return Arm(name, parse_config(tree), out / name.replace("/", "-"))
    except ConfigError as error:
        raise ConfigError(f"arm '{name}': {error}") from error
