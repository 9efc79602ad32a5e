"""A run: its configuration as one tree, the parts built from it, and its folder on disk.

RUN/config.yaml         the resolved configuration
RUN/run.json            grids, provenance
RUN/model.safetensors   the teacher: what `embed` and `ablate` use
RUN/checkpoints/        what `--resume` needs, by step
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

import torch
from omegaconf import OmegaConf
from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt, SerializeAsAny

from multisense.clips import Grid, parse_grid
from multisense.config import Config, ConfigError, parse, read_tree, suggest
from multisense.logs import hub, open_logs
from multisense.logs.base import LogError, SensorLog
from multisense.logs.files import keep_digests
from multisense.modalities import parse_sensors
from multisense.modalities.base import SensorConfig
from multisense.model import ModelConfig, MultiSense
from multisense.objectives.latent import LatentPrediction, ObjectiveConfig
from multisense.statistics import copy_statistics
from multisense.weights import load_strictly, to_disk


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
    cache: str | None = None
    """Folder in which the run's sensors are kept decoded, frames at the run's size; null decodes the logs every time."""
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
    checkpoint_activations: bool = False
    """Forget the activations inside every block and compute them again for the gradient: less memory, a third more time."""
    skip_sigmas: PositiveFloat = 10.0
    """A step whose loss or gradient norm lies so many deviations above those of the last 100 steps is skipped."""
    skip_most: PositiveInt = 20
    """More skipped steps than this in a row end the run, with its weights as they were before."""
    health_every: NonNegativeInt = 500
    """Steps from one measure of the run's health on held-out clips to the next (`multisense/health/`); 0: never."""
    on_collapse: Literal["warn", "stop"] = "warn"
    """What is done where health finds that the latents collapse or the loss diverges; other alarms only warn."""
    save_every: PositiveInt = 500
    keep_last: PositiveInt = 2
    """Checkpoints that are kept; older ones are deleted."""
    keep_every: PositiveInt | None = None
    """Checkpoints of steps that are multiples of this are kept for ever."""
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
    config = parse(RunConfig, {**tree, "sensors": parse_sensors(sensors)})
    for name in config.objective.masks.alone:
        if name not in config.sensors:
            raise ConfigError(
                f"objective.masks.alone: '{name}' is no sensor of the run; {suggest(name, config.sensors)}"
            )
    return config


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
    check_sensors(config.sensors, grids, config.data.clip_seconds, logs)


def check_sensors(
    sensors: Mapping[str, SensorConfig], grids: Mapping[str, Grid], seconds: float, logs: Sequence[SensorLog]
) -> None:
    """`check_logs` for a model's sensors, their grids and the length of its clips."""
    for log in logs:
        if not any(name in log.sensors for name in grids):
            raise LogError(f"{log.path}: expected some of the sensors {list(grids)}, found {list(log.sensors)}")
        for name in set(grids) & set(log.sensors):
            found = sensors[name].grid(log.sensors[name], seconds)
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
        return MultiSense(config.model, config.sensors, grids, config.data.clip_seconds)


def build_objective(config: RunConfig, grids: Mapping[str, Grid]) -> LatentPrediction:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.train.seed)
        model = MultiSense(config.model, config.sensors, grids, config.data.clip_seconds)
        objective = LatentPrediction(config.objective, model)
    objective.recompute_activations(config.train.checkpoint_activations)
    return objective


def untrained_model(run: Run, seed: int) -> MultiSense:
    """The run's model with fresh weights and the run's normalisation: the baseline that learning must beat."""
    model = build_model(run.config, run.grids, seed)
    copy_statistics(run.model, model)
    return model


def data_fingerprint(logs: Sequence[SensorLog]) -> str:
    """A short hash of the logs' fingerprints. Files that are unchanged since another process asked are not read again."""
    digest = hashlib.sha256("\n".join(sorted(log.fingerprint() for log in logs)).encode()).hexdigest()[:16]
    keep_digests()
    return digest


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
        "hours": round(recorded_hours(logs), 6),
        "config": config.tree(),
    }


FOLDERS = ("train", "test", "cache", "first")
"""Keys of configurations and provenance under which a text is a path."""


def shareable(made: Any, key: str = "") -> Any:
    """A configuration or provenance without the folders of one machine, at any depth: of a path its last part, what the
    Hub has whole."""
    if isinstance(made, Mapping):
        return {name: shareable(value, name) for name, value in made.items()}
    if isinstance(made, list | tuple):
        return [shareable(value, key) for value in made]
    if not isinstance(made, str) or hub.recognises(made):
        return made
    return Path(made).name if key in FOLDERS or Path(made).is_absolute() else made


def recorded_hours(logs: Sequence[SensorLog]) -> float:
    """Hours of recording: of every log, from the first sample of any sensor to the end of the last."""
    infos = [list(log.sensors.values()) for log in logs]
    return sum(max(i.stop_s for i in log) - min(i.start_s for i in log) for log in infos if log) / 3600


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
    to_disk(temporary)
    temporary.replace(path)


def read_lines(file: Path) -> list[dict[str, Any]]:
    """The rows of a JSONL file; none where there is no file. A last line that a kill cut short is left out."""
    lines = file.read_text().splitlines(keepends=True) if file.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def holds_run(path: Path) -> bool:
    return (path / "run.json").exists()


def refuse_existing(path: Path) -> list[str]:
    """Raise ConfigError where there is a run; nothing has changed since a run that is not there."""
    if holds_run(path):
        raise ConfigError(f"{path}: already holds a run; continue it with --resume, or choose another --out")
    return []


def create_run(path: Path, config: RunConfig, grids: Mapping[str, Grid], origin: Mapping[str, Any]) -> None:
    """Make the folder of a new run; refuse one that holds a run already."""
    refuse_existing(path)
    path.mkdir(parents=True, exist_ok=True)
    write_run(path, config, grids, origin)


def write_run(path: Path, config: RunConfig, grids: Mapping[str, Grid], origin: Mapping[str, Any]) -> None:
    """What a run is made with: config.yaml, and grids and provenance in run.json."""
    write_atomically(path / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(config.tree())))
    body = {"grids": {name: asdict(grid) for name, grid in grids.items()}, "provenance": origin}
    write_atomically(path / "run.json", json.dumps(body, indent=1))


def read_run(path: Path) -> tuple[RunConfig, dict[str, Grid], dict[str, Any]]:
    """Configuration, grids and provenance of a run folder."""
    if not holds_run(path):
        found = "it has no run.json" if path.exists() else "there is no such folder"
        raise ConfigError(f"{path}: not a run: {found}; make one with `multisense train CONFIG --out {path}`")
    body = json.loads((path / "run.json").read_text())
    grids = {name: parse_grid(values) for name, values in body["grids"].items()}
    return load_config(path / "config.yaml"), grids, body["provenance"]


def token_rates(path: Path) -> tuple[dict[str, float], int]:
    """Tokens per second of each sensor of a run, and the numbers in a token."""
    config, grids, _ = read_run(path)
    layout = build_model(config, grids, 0).layout
    counts = torch.bincount(layout.sensor.cpu(), minlength=len(layout.names)).tolist()
    seconds = config.data.clip_seconds
    return {name: count / seconds for name, count in zip(layout.names, counts, strict=True)}, config.model.width


def open_run(path: Path | str, device: str = "cpu") -> Run:
    """A trained run, its weights loaded strictly.

    A run is taken to be one's own: a sensor's kind from outside the package is imported as it was for training. Models of
    others come through `MultiSense.from_pretrained`, which imports nothing for them.
    """
    path = Path(path)
    config, grids, origin = read_run(path)
    objective = build_objective(config, grids)
    load_strictly(objective.teacher, path, "model")
    load_strictly(objective.predictor, path, "predictor")
    objective.student.load_state_dict(objective.teacher.state_dict())
    objective = objective.to(device).eval()
    return Run(path, config, grids, objective.teacher, objective, origin)


FREE_TO_CHANGE = (
    "data.workers", "data.in_memory", "data.cache", "train.save_every", "train.keep_last", "train.keep_every",
    "train.log_every", "train.log_with", "train.checkpoint_activations", "train.health_every", "train.on_collapse",
)  # fmt: skip
"""What a run may go on with another value of, because the weights do not depend on it."""


def resume_differs(path: Path, config: RunConfig, logs: Sequence[SensorLog], allow: bool = False) -> list[str]:
    """How configuration and data differ from those a run was made with, in words.

    Raises ConfigError where they do, unless `allow`.
    """
    old, _, origin = read_run(path)
    ours, theirs = flat(config.tree()), flat(old.tree())
    differ = [
        f"{key} was {theirs.get(key)!r}, is {ours.get(key)!r}"
        for key in sorted(ours.keys() | theirs.keys())
        if ours.get(key) != theirs.get(key) and not key.startswith(FREE_TO_CHANGE)
    ]
    if origin["data"] != data_fingerprint(logs):
        differ.append(f"the fingerprint of the logs was {origin['data']}, is {data_fingerprint(logs)}")
    if differ and not allow:
        shown = "; ".join(differ[:6]) + (f"; and {len(differ) - 6} more" if len(differ) > 6 else "")
        raise ConfigError(
            f"{path}: cannot go on with another configuration or other data without --allow-changes: {shown}"
        )
    return differ


def has_training_logs(config: RunConfig) -> bool:
    """Whether there is something at `data.train`; what is on the Hub is taken to be there."""
    return hub.recognises(config.data.train) or Path(config.data.train).exists()


def training_logs(config: RunConfig) -> list[SensorLog]:
    """The logs of `data.train` less the held-out ones and those that have none of the run's sensors."""
    return with_sensors(config, given_logs(config))


def with_sensors(config: RunConfig, logs: Sequence[SensorLog]) -> list[SensorLog]:
    """Those of the logs that have a sensor of the run's: a run of a part of the sensors may find some without."""
    return [log for log in logs if any(name in log.sensors for name in config.sensors)]


def given_logs(config: RunConfig) -> list[SensorLog]:
    """The logs of `data.train` less the held-out ones."""
    logs = _logs_of_train(config)
    kept = [log for log in logs if log.name not in config.data.hold_out]
    if not kept:
        raise LogError(f"data.hold_out: leaves none of the {len(logs)} logs of {config.data.train} to train on")
    return kept


def held_out_logs(config: RunConfig) -> list[SensorLog]:
    """The logs of `data.train` that `data.hold_out` names."""
    return [log for log in _logs_of_train(config) if log.name in config.data.hold_out]


def _logs_of_train(config: RunConfig) -> list[SensorLog]:
    logs = open_logs(config.data.train)
    unknown = sorted(set(config.data.hold_out) - {log.name for log in logs})
    if unknown:
        raise LogError(
            f"data.hold_out: {unknown} are not logs of {config.data.train}; it has {[log.name for log in logs][:20]}"
        )
    return logs


def flat(tree: Any, at: str = "") -> dict[str, Any]:
    """A nested dict as {key.path: value}."""
    if not isinstance(tree, Mapping):
        return {at: tree}
    return {k: v for key, value in tree.items() for k, v in flat(value, f"{at}.{key}" if at else str(key)).items()}
