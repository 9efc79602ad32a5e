"""Shapes and rates of a body's sensors, which no configuration holds: from logs, a run, or a few lines of YAML."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import PositiveFloat, PositiveInt, field_validator

from multisense.clips import Grid
from multisense.config import Config, ConfigError, parse, read_tree
from multisense.logs import hub
from multisense.run import RunConfig, given_logs, holds_run, read_run
from multisense.types import SensorInfo


class BodySensor(Config):
    """One sensor of a body's YAML, `left_cam: {shape: [480, 640, 3], rate_hz: 30, dtype: uint8}`."""

    shape: tuple[PositiveInt, ...]
    """Of one sample."""
    rate_hz: PositiveFloat
    dtype: str = "float32"

    @field_validator("dtype")
    @classmethod
    def _is_a_number_type(cls, value: str) -> str:
        try:
            np.dtype(value)
        except TypeError:
            raise ValueError("expected a number type such as float32, int16 or uint8") from None
        return value


@dataclass(frozen=True)
class Body:
    """What the sensors of a configuration record, and who says so."""

    sensors: Mapping[str, SensorInfo]
    source: str

    def grids(self, config: RunConfig) -> dict[str, Grid]:
        """Raises ConfigError for a sensor that the body lacks."""
        missing = [name for name in config.sensors if name not in self.sensors]
        if missing:
            raise ConfigError(f"sensors: {missing} are not in {self.source}; it has {list(self.sensors)}")
        seconds = config.data.clip_seconds
        return {name: sensor.grid(self.sensors[name], seconds) for name, sensor in config.sensors.items()}


def find_body(config: RunConfig, beside: Path, like: Path | None = None) -> Body:
    """The body in `like`, a run or a YAML; else that of the logs of `data.train`; else one of `<beside>/bodies/*.yaml`
    that has all sensors.

    Raises ConfigError where there is none, and LogError for logs that are there but cannot be read.
    """
    if like is not None:
        return body_of_run(like) if holds_run(like) else read_body(like)
    if Path(config.data.train).exists() or hub.recognises(config.data.train):
        logs = given_logs(config)
        return Body({n: info for log in reversed(logs) for n, info in log.sensors.items()}, config.data.train)
    for file in sorted(beside.glob("bodies/*.yaml")):
        body = read_body(file)
        if set(config.sensors) <= set(body.sensors):
            return body
    raise ConfigError(
        f"data.train: no logs at {config.data.train!r} to take the sensors' shapes from; name a run or a YAML by --like, "
        f"with a line for each sensor such as `{next(iter(config.sensors))}: {{shape: [7], rate_hz: 250, dtype: float32}}`"
    )


def read_body(file: Path) -> Body:
    """A YAML of one `BodySensor` a line."""
    sensors = {name: parse(BodySensor, settings, f"{file}: {name}") for name, settings in read_tree(file).items()}
    return Body({name: _info(name, s.rate_hz, s.shape, s.dtype) for name, s in sensors.items()}, str(file))


def body_of_run(path: Path) -> Body:
    """What a run made of its sensors: the shapes and rates of its grids."""
    grids = read_run(path)[1]
    return Body({name: _info(name, g.rate_hz, g.shape, g.dtype) for name, g in grids.items()}, str(path))


def _info(name: str, rate_hz: float, shape: tuple[int, ...], dtype: str) -> SensorInfo:
    return SensorInfo(name, "", rate_hz, shape, dtype, 0.0, 0.0, 0)
