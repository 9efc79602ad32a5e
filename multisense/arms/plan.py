"""Which trainings an ablation needs: a model for every subset of the sensors, and for every part of the objective."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from multisense.config import ConfigError, read_tree, suggest
from multisense.evaluate.table import key, subsets
from multisense.run import RunConfig, parse_config

PARTS: Mapping[str, Mapping[str, float]] = {
    "block": {"objective.masks.block": 0.0},
    "cross": {"objective.masks.cross": 0.0},
    "causal": {"objective.masks.causal": 0.0},
    "signal": {"objective.signal": 0.0},
    "contrast": {"objective.contrast": 0.0},
    "ema": {"objective.ema_share": 1e-9},  # the teacher is the student of the step before
}
"""What `--without` may name, and what it sets."""


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
    """One arm for every subset of the sensors but all of them, which is the run itself: same steps, same clips a step."""
    names = list(config.sensors)
    chosen = [s for s in subsets(names) if len(s) < len(names)]
    return [
        _arm(key(s), {**config.tree(), "sensors": {n: config.tree()["sensors"][n] for n in s}}, out) for s in chosen
    ]


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
        if not isinstance(keys, Mapping):
            raise ConfigError(f"{grid}: {name}: expected a mapping of key.path: value, found {keys!r}")
        sets[name] = keys
    twice = [name for name in sets if name in map(key, subsets(list(config.sensors)))]
    if twice:
        raise ConfigError(f"{grid}: {twice[0]}: is the name of a subset of the sensors; choose another for this arm")
    return [_arm(name, _with(config, keys), out) for name, keys in sets.items()]


def _with(config: RunConfig, keys: Mapping[str, Any]) -> Mapping[str, Any]:
    tree = OmegaConf.create(config.tree())
    for path, value in keys.items():
        OmegaConf.update(tree, path, value)
    found = OmegaConf.to_container(tree)
    assert isinstance(found, dict)
    return {str(part): value for part, value in found.items()}


def _arm(name: str, tree: Mapping[str, Any], out: Path) -> Arm:
    try:
        return Arm(name, parse_config(tree), out / name.replace("/", "-"))
    except ConfigError as error:
        raise ConfigError(f"arm '{name}': {error}") from error
