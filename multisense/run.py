"""A run: its configuration as one tree, the parts built from it, and its folder on disk.

RUN/config.yaml         the resolved configuration
RUN/run.json            grids, provenance
RUN/model.safetensors   the teacher: what `embed` and `ablate` use
RUN/checkpoint/         what `--resume` needs
RUN/metrics.jsonl       one line per logged step
"""

import hashlib
import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from omegaconf import OmegaConf
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, SerializeAsAny
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.data import Dataset

from multisense.clips import Grid, collate
from multisense.config import Config, ConfigError, parse, read_tree
from multisense.logs.base import LogError, SensorLog
from multisense.modalities import modality
from multisense.modalities.base import SensorConfig
from multisense.model import ModelConfig, MultiSense
from multisense.objectives.latent import LatentPrediction, ObjectiveConfig
from multisense.types import Batch


class DataConfig(Config):
    train: str
    """Folder of logs, one log, or a LeRobot root."""
    test: str | None = None
    """Held-out logs, for `ablate`; null where none are set apart."""
    clip_seconds: PositiveFloat = 2.0
    workers: NonNegativeInt = 0
    """Loader processes; 0 loads in the training process."""
    in_memory: bool = False
    """Decode every log once and keep it: for data sets that fit."""
    hold_out: list[str] = Field(default_factory=list)
    """Names of logs in `train` that are left out of it, and are the test logs where `test` is null."""


class TrainConfig(Config):
    steps: PositiveInt = 1000
    """Optimizer steps."""
    batch_size: PositiveInt = 64
    """Clips per optimizer step, over all processes and accumulated micro-batches."""
    accumulate: PositiveInt = 1
    """Micro-batches per optimizer step."""
    learning_rate: PositiveFloat = 1e-3
    weight_decay: NonNegativeFloat = 0.04
    warmup_steps: NonNegativeInt = 50
    schedule: Literal["cosine", "constant"] = "cosine"
    clip_norm: PositiveFloat = 3.0
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    compile: bool = False
    seed: NonNegativeInt = 0
    save_every: PositiveInt = 500
    log_every: PositiveInt = 20
    log_with: list[str] = Field(default_factory=lambda: ["tensorboard"])
    """Trackers of Accelerate beside metrics.jsonl: tensorboard, wandb, trackio."""


class RunConfig(Config):
    data: DataConfig
    sensors: dict[str, SerializeAsAny[SensorConfig]]
    model: ModelConfig = ModelConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    train: TrainConfig = TrainConfig()

    def tree(self) -> dict[str, Any]:
        return self.model_dump(mode="json")


@dataclass(frozen=True)
class Run:
    """A trained model with everything needed to use it on logs."""

    path: Path
    config: RunConfig
    grids: dict[str, Grid]
    model: MultiSense
    objective: LatentPrediction
    provenance: dict[str, Any]


def load_config(path: Path | str, overrides: Sequence[str] = ()) -> RunConfig:
    return parse_config(read_tree(Path(path), overrides))


def parse_config(tree: Mapping[str, Any]) -> RunConfig:
    """A tree -> RunConfig; each sensor is parsed by its own kind's `Config`."""
    sensors = tree.get("sensors")
    if not isinstance(sensors, Mapping) or not sensors:
        raise ConfigError(f"sensors: expected a mapping of sensor names to settings, found {sensors!r}")
    typed = {}
    for name, settings in sensors.items():
        at = f"sensors.{name}"
        if not isinstance(settings, Mapping) or "kind" not in settings:
            raise ConfigError(f"{at}.kind: missing; expected a mapping with the sensor's modality, found {settings!r}")
        typed[str(name)] = parse(modality(settings["kind"], f"{at}.kind").Config, settings, at)
    return parse(RunConfig, {**tree, "sensors": typed})


def make_grids(config: RunConfig, logs: Sequence[SensorLog]) -> dict[str, Grid]:
    """The grid of every sensor, from the first log that has it."""
    grids = {}
    for name, sensor in config.sensors.items():
        infos = [log.sensors[name] for log in logs if name in log.sensors]
        if not infos:
            have = sorted({n for log in logs for n in log.sensors})
            raise LogError(f"sensors.{name}: in none of the {len(logs)} logs of {config.data.train}; they hold {have}")
        grids[name] = sensor.grid(infos[0], config.data.clip_seconds)
    return grids


def check_logs(config: RunConfig, grids: Mapping[str, Grid], logs: Sequence[SensorLog]) -> None:
    """Raise LogError where a log's sensors are not what the run was made for, naming which and how."""
    for log in logs:
        if not any(name in log.sensors for name in grids):
            raise LogError(f"{log.path}: expected some of the sensors {list(grids)}, found {list(log.sensors)}")
        for name in set(grids) & set(log.sensors):
            found = config.sensors[name].grid(log.sensors[name], config.data.clip_seconds)
            for what in ("shape", "dtype", "rate_hz", "channels", "units"):
                theirs, ours = getattr(found, what), getattr(grids[name], what)
                unknown = what in ("channels", "units") and not (theirs and ours)
                if theirs != ours and not unknown:
                    is_frame = what == "shape" and len(theirs) == len(ours) == 3
                    key = "rate_hz" if what == "rate_hz" else "size" if is_frame else ""
                    raise LogError(
                        f"{log.path}: sensor '{name}' has {what} {theirs}, the run was made for {ours}"
                        + (f"; train with sensors.{name}.{key} set, which brings them together" if key else "")
                    )


def build_model(config: RunConfig, grids: Mapping[str, Grid], seed: int) -> MultiSense:
    """A fresh model whose weights are a pure function of the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return MultiSense(config.model, config.sensors, grids)


def build_objective(config: RunConfig, grids: Mapping[str, Grid]) -> LatentPrediction:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.train.seed)
        return LatentPrediction(config.objective, MultiSense(config.model, config.sensors, grids))


def untrained_model(run: Run, seed: int) -> MultiSense:
    """The run's model with fresh weights and the run's normalisation: the baseline that learning must beat."""
    model = build_model(run.config, run.grids, seed)
    copy_statistics(run.model, model)
    return model


def copy_statistics(source: MultiSense, target: MultiSense) -> None:
    for name in source.names:
        target.tokenizer(name).mean.copy_(source.tokenizer(name).mean)
        target.tokenizer(name).std.copy_(source.tokenizer(name).std)


@torch.no_grad()
def fit_statistics(model: MultiSense, clips: Dataset, count: int = 256, chunk: int = 16) -> None:
    """Fit each tokenizer's normalisation on the first `count` training clips, over valid samples only.

    Raises LogError for a sensor that is constant, or never finite and present, over all of them.
    """
    moments: dict[str, list[torch.Tensor]] = {name: [] for name in model.names}
    bursts: dict[str, list[torch.Tensor]] = {name: [] for name in model.names}
    for start in range(0, count, chunk):
        batch = collate([clips[i] for i in range(start, start + chunk)])
        for name in model.names:
            signal = _known_signal(model, name, batch)
            known = signal.isfinite().double(), signal.nan_to_num(), signal.nan_to_num().square()
            moments[name].append(torch.stack([part.sum((0, 1)) for part in known]))
            bursts[name].append(_burst(signal, model.tokenizer(name).std.shape))
    for name in model.names:
        n, total, squares = torch.stack(moments[name]).sum(0)
        if not (n > 0).all():
            raise LogError(
                f"sensors.{name}: no valid sample in {count} training clips (all NaN, or never present together with the "
                f"other sensors); check the sensor or remove it from the configuration"
            )
        tokenizer = model.tokenizer(name)
        mean = _pool_cells(total / n, tokenizer.mean.shape)
        std = _pool_cells(squares / n - 2 * mean * total / n + mean**2, tokenizer.std.shape).clamp(min=0).sqrt()
        std = torch.maximum(std, torch.stack(bursts[name]).nanmedian(0).values)
        axes = (0, 1, 2) if std.shape[2] == 1 else (0, 1)
        quiet = 1e-6 * mean.abs().amax(axes, keepdim=True).clamp(min=1e-6)
        if not (std > quiet).any():
            raise LogError(
                f"sensors.{name}: constant (every channel stays at {mean.flatten()[0]:.6g}) over {count} training clips; a "
                f"dead sensor cannot be learnt from: remove it from the configuration"
            )
        tokenizer.mean.copy_(mean)
        tokenizer.std.copy_(torch.where(std > quiet, std, 1.0))


def _pool_cells(values: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """Values (H, W, C) averaged down to `shape`, each of whose sides is 1 or as it was."""
    axes = [axis for axis in (0, 1, 2) if shape[axis] == 1]
    return values.mean(axes, keepdim=True) if axes else values


def _known_signal(model: MultiSense, name: str, batch: Batch) -> torch.Tensor:
    """A sensor's signal (B, N, H, W, C), NaN where it is not valid."""
    signal = model.tokenizer(name).signal(batch.values[name]).double()
    valid = batch.valid[name]
    steps = torch.arange(signal.shape[1]) * valid.shape[1] // signal.shape[1]
    return torch.where(valid[:, steps, None, None, None], signal, torch.nan)


def _burst(signal: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """A fifth of how far the farthest thousandth of the values of a chunk lie from their mean, per cell of `shape`.

    A skin that is touched now and then has the deviation of its silence; in units of that a touch would be so large that
    layer norms leave nothing of how large. For a Gaussian signal this is .66 of the deviation and does nothing.
    """
    rows = (signal - signal.nanmean((0, 1))).flatten(0, 1)
    for axis, cells in enumerate(shape, start=1):
        if cells == 1:
            rows = rows.movedim(axis, 1).flatten(0, 1).unsqueeze(axis)
    rows = rows[torch.randint(len(rows), (50_000,), generator=torch.Generator().manual_seed(0))].movedim(0, -1)
    return rows.abs().nanquantile(0.999, dim=-1) / 5


def data_fingerprint(logs: Sequence[SensorLog]) -> str:
    return hashlib.sha256("\n".join(sorted(log.fingerprint() for log in logs)).encode()).hexdigest()[:16]


def provenance(config: RunConfig, logs: Sequence[SensorLog]) -> dict[str, Any]:
    """What a result needs to be made again: configuration, code, seed, data."""
    return {
        "multisense": version("multisense"),
        "code": code_fingerprint(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "seed": config.train.seed,
        "data": data_fingerprint(logs),
        "logs": len(logs),
        "config": config.tree(),
    }


def code_fingerprint() -> str:
    """A short hash of the package's own source, which says more than a version between releases."""
    digest = hashlib.sha256()
    root = Path(__file__).parent
    for file in sorted(root.rglob("*.py")):
        digest.update(file.relative_to(root).as_posix().encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def write_atomically(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text)
    temporary.replace(path)


def refuse_existing(path: Path) -> None:
    if (path / "run.json").exists():
        raise ConfigError(f"{path}: already holds a run; continue it with --resume, or choose another --out")


def create_run(path: Path, config: RunConfig, grids: Mapping[str, Grid], logs: Sequence[SensorLog]) -> None:
    """Make the folder of a new run; refuse one that holds a run already."""
    refuse_existing(path)
    path.mkdir(parents=True, exist_ok=True)
    write_atomically(path / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(config.tree())))
    body = {"grids": {name: asdict(grid) for name, grid in grids.items()}, "provenance": provenance(config, logs)}
    write_atomically(path / "run.json", json.dumps(body, indent=1))


def read_run(path: Path) -> tuple[RunConfig, dict[str, Grid], dict[str, Any]]:
    """Configuration, grids and provenance of a run folder."""
    if not (path / "run.json").exists():
        raise ConfigError(
            f"{path}: not a run: it has no run.json; make one with `multisense train CONFIG --out {path}`"
        )
    body = json.loads((path / "run.json").read_text())
    grids = {name: _grid(values) for name, values in body["grids"].items()}
    return load_config(path / "config.yaml"), grids, body["provenance"]


def token_rates(path: Path) -> tuple[dict[str, float], int]:
    """Tokens per second of each sensor of a run, and the numbers in a token."""
    config, grids, _ = read_run(path)
    layout = build_model(config, grids, 0).layout
    counts = torch.bincount(layout.sensor.cpu(), minlength=len(layout.names)).tolist()
    seconds = config.data.clip_seconds
    return {name: count / seconds for name, count in zip(layout.names, counts, strict=True)}, config.model.width


def _grid(values: dict[str, Any]) -> Grid:
    size = values["size"]
    lists = {name: tuple(values[name]) for name in ("shape", "channels") if name in values}
    return Grid(**{**values, **lists, "size": None if size is None else tuple(size)})


def open_run(path: Path | str, device: str = "cpu") -> Run:
    """A trained run, its weights loaded strictly."""
    path = Path(path)
    config, grids, origin = read_run(path)
    objective = build_objective(config, grids)
    load_strictly(objective.teacher, path / "model.safetensors")
    load_strictly(objective.predictor, path / "predictor.safetensors")
    objective.student.load_state_dict(objective.teacher.state_dict())
    objective = objective.to(device).eval()
    return Run(path, config, grids, objective.teacher, objective, origin)


def load_strictly(module: nn.Module, file: Path) -> None:
    """Load safetensors into a module; every missing, unexpected or mis-shaped key is named."""
    try:
        weights = load_file(file)
    except FileNotFoundError:
        raise ConfigError(f"{file}: no weights; the run has not saved a checkpoint yet") from None
    except SafetensorError as error:
        raise ConfigError(f"{file}: not readable as safetensors ({error}); it may be cut short") from error
    own = module.state_dict()
    wrong = [f"missing {k}" for k in sorted(own.keys() - weights.keys())]
    wrong += [f"unexpected {k}" for k in sorted(weights.keys() - own.keys())]
    wrong += [
        f"{k} is {tuple(weights[k].shape)}, expected {tuple(own[k].shape)}"
        for k in sorted(own.keys() & weights.keys())
        if own[k].shape != weights[k].shape
    ]
    if wrong:
        shown = "; ".join(wrong[:6]) + (f"; and {len(wrong) - 6} more" if len(wrong) > 6 else "")
        raise ConfigError(f"{file}: these weights are of another model than the run's configuration: {shown}")
    module.load_state_dict(weights)


def save_module(module: nn.Module, file: Path) -> None:
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    save_file({k: v.detach().cpu().contiguous() for k, v in module.state_dict().items()}, temporary)
    temporary.replace(file)


def to_host(values: Mapping[str, torch.Tensor]) -> dict[str, float]:
    """Many device scalars in one transfer."""
    names = list(values)
    stacked = torch.stack([values[n].detach().float() for n in names]).cpu().numpy() if names else np.zeros(0)
    return dict(zip(names, stacked.tolist(), strict=True))


def resume_differs(path: Path, config: RunConfig, logs: Sequence[SensorLog]) -> None:
    """Raise ConfigError where a run cannot be continued with this configuration and data, naming the difference."""
    old, _, origin = read_run(path)
    ours, theirs = flat(config.tree()), flat(old.tree())
    free = ("data.workers", "data.in_memory", "train.save_every", "train.log_every", "train.log_with")
    differ = [k for k in sorted(ours.keys() | theirs.keys()) if ours.get(k) != theirs.get(k) and not k.startswith(free)]
    if differ:
        shown = "; ".join(f"{k} was {theirs.get(k)!r}, is {ours.get(k)!r}" for k in differ[:6])
        raise ConfigError(f"{path}: cannot resume with another configuration: {shown}")
    if origin["data"] != data_fingerprint(logs):
        raise ConfigError(
            f"{path}: cannot resume on other data: the logs' fingerprint was {origin['data']}, is {data_fingerprint(logs)}"
        )


def flat(tree: Any, at: str = "") -> dict[str, Any]:
    """A nested dict as {key.path: value}."""
    if not isinstance(tree, Mapping):
        return {at: tree}
    return {k: v for key, value in tree.items() for k, v in flat(value, f"{at}.{key}" if at else str(key)).items()}
