"""Any HDF5 file, through a few lines of YAML that say which array is which sensor.

```yaml
# multisense.yaml, in the folder of the recordings
log: "session_*.h5"                 # every file is a log; "all.h5:/runs/run_*" makes a log of every such group
sensors:
  wrist_cam: {path: camera/color, times: camera/stamps, time_unit: ns, modality: video}
  arm: {path: robot/q, times: robot/t, modality: proprio, units: rad, channels: [shoulder, elbow]}
  mic: {path: sound/samples, rate_hz: 16000, modality: audio}
```

`path` and `times` are looked up in the log's group, or from the file's root where they begin with a slash. A sensor has
`times`, one stamp per sample, or `rate_hz` (or both: the rate is then nominal). Images are frames (N, H, W, 3) uint8, or
JPEG or PNG bytes. Stamps that count from 1970 are taken from the log's earliest one on; a sensor without stamps begins
at 0. What a log lacks is in `ForeignLog.skipped`. File patterns stay in the YAML's folder; native logs are left out.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from fractions import Fraction
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal

import h5py
import numpy as np
import yaml
from pydantic import Field

from multisense.config import Config, ConfigError, parse
from multisense.logs.base import LogError, SensorLog, log_error
from multisense.logs.clock import AnchoredClock, Clock, StampedClock, check_rate
from multisense.logs.files import stays_inside
from multisense.logs.foreign import ForeignLog, Sensor, on_clock, stamped
from multisense.logs.hdf5_file import Found, Hdf5File, Stamps, find, gather, is_native_file, read_stamps
from multisense.logs.pool import POOL

FILE = "multisense.yaml"
LARGEST_YAML = 1 << 16
DEEPEST = 8
MOST_LEVELS, MOST_GROUPS = 4, 1 << 16
"""Of groups that are logs."""
UNITS = {"s": Fraction(1), "ms": Fraction(1, 10**3), "us": Fraction(1, 10**6), "ns": Fraction(1, 10**9)}
UNIX_S = 10**8
"""Stamps from here on (1973) count from 1970; below, from the start of something."""


class MappingConfig(Config):
    """A mapping file."""

    log: str
    """Files, relative to the YAML (`*` and `**` as in a shell), and after ":/" the groups of each that are logs."""
    sensors: dict[Annotated[str, Field(pattern=r"^[\w-][\w.-]*$")], Any] = Field(min_length=1)
    """Name -> `MappedSensor`"""


class MappedSensor(Config):
    """Where one sensor's samples and stamps are."""

    path: str
    times: str = ""
    time_unit: Literal["s", "ms", "us", "ns"] = "s"
    rate_hz: Annotated[float, Field(gt=0, lt=1e9)] | None = None
    """Nominal rate, in hertz; the rate itself where there are no `times`."""
    modality: Literal["video", "audio", "touch", "proprio", ""] = ""
    units: str = ""
    channels: tuple[str, ...] = ()


@dataclass(frozen=True)
class LogMap:
    """A checked mapping file."""

    path: str
    files: str
    groups: str
    sensors: Mapping[str, MappedSensor]


def recognises(path: Path) -> bool:
    """Whether `path` is a mapping, or a folder with one in `multisense.yaml`; a training configuration is none."""
    try:
        tree = _read_yaml(path if path.is_file() else path / FILE)
    except LogError:
        return False
    sensors = tree.get("sensors")
    return isinstance(sensors, dict) and (
        "log" in tree or any(isinstance(s, dict) and "path" in s for s in sensors.values())
    )


def candidates(path: Path) -> dict[str, Callable[[], SensorLog]]:
    """Openers by log name: the file's, and the group's where groups are logs, with "-" for slashes.

    Raises LogError where the mapping is wrong, matches nothing, or two logs would have one name. A file that cannot be
    opened has an opener that says why.
    """
    mapping = read_mapping(path if path.is_file() else path / FILE)
    folder, found = Path(mapping.path).parent, {}
    for file in _files(folder, mapping):
        groups = _groups(str(file), mapping.groups)
        if len(groups) > MOST_GROUPS:  # links may make a few groups into millions of paths
            raise log_error(f"{mapping.path}: log", f"more than {MOST_GROUPS} groups", "fewer logs", "Name less.")
        for group in groups:
            parts = [*file.relative_to(folder).with_suffix("").parts, *filter(None, group.split("/"))]
            name = "-".join(parts)
            if name in found:
                raise log_error(mapping.path, f"two logs of the name {name!r}", "one", "Narrow the pattern, or rename.")
            found[name] = partial(mapped_log, name, str(file), group, mapping)
    if not found:
        pattern = f"{mapping.files}:/{mapping.groups}" if mapping.groups else mapping.files
        raise log_error(mapping.path, f"nothing that matches {pattern!r}", "HDF5 files or groups", "Correct `log`.")
    return dict(sorted(found.items()))


def read_mapping(path: Path) -> LogMap:
    """The mapping in a YAML file. Raises LogError where it is unreadable or says something that cannot be."""
    try:
        config = parse(MappingConfig, _read_yaml(path))
        sensors = {name: parse(MappedSensor, tree, f"sensors.{name}") for name, tree in config.sensors.items()}
    except ConfigError as error:
        raise LogError(f"{path}: {error}") from error
    for name, sensor in sensors.items():
        where = f"{path}: sensors.{name}"
        if sensor.rate_hz is not None:
            check_rate(sensor.rate_hz, f"{where}.rate_hz")
        if not sensor.times and sensor.rate_hz is None:
            raise log_error(where, "neither times nor rate_hz", "one of them", "Name the stamps, or give the rate.")
    files, _, groups = config.log.partition(":/")
    if files.count("**") > 1 or groups.count("/") > MOST_LEVELS:
        found = f"{config.log!r:.80}"
        raise log_error(f"{path}: log", found, f"one ** and {MOST_LEVELS} levels of groups at most", "Name less.")
    if not stays_inside(files):
        where = f"{path}: log"
        raise log_error(where, f"{files!r}", "files below this one's folder", "Put the mapping where they are.")
    return LogMap(str(path), files, groups.strip("/"), sensors)


def mapped_log(name: str, path: str, group: str, mapping: LogMap) -> ForeignLog:
    """One file, or one `group` of it ("" for the root). Raises LogError where no sensor of the mapping is usable."""
    POOL.get(Hdf5File, path)  # a file that cannot be opened is one error, not one for every sensor
    stamped_ones = {name: sensor for name, sensor in mapping.sensors.items() if sensor.times}
    stamps, skipped = gather({
        name: partial(read_stamps, path, _at(group, sensor.times), UNITS[sensor.time_unit])
        for name, sensor in stamped_ones.items()
    })  # fmt: skip
    earliest = min((values.earliest for values in stamps.values()), default=Fraction(0))
    origin = earliest if earliest >= UNIX_S else Fraction(0)
    sensors, unusable = gather({
        name: partial(_sensor, path, group, name, sensor, stamps.get(name), origin)
        for name, sensor in mapping.sensors.items() if name not in skipped
    })  # fmt: skip
    notes = {
        name: f"no time stamps: index / {mapping.sensors[name].rate_hz:g} Hz, from 0 s on"
        for name in sensors if name not in stamps
    }  # fmt: skip
    return ForeignLog(
        name, path, sensors.values(), files=(path, mapping.path), skipped=skipped | unusable, notes=notes
    )  # fmt: skip


def _read_yaml(path: Path) -> dict[str, Any]:
    """The YAML file as plain values."""
    fix = "Correct the file."
    try:
        if path.suffix not in (".yaml", ".yml") or not path.is_file() or path.stat().st_size > LARGEST_YAML:
            raise log_error(str(path), "no small YAML file", f"one of at most {LARGEST_YAML} bytes", fix)
        text = path.read_text()
        _check_plain(text, str(path))
        tree = yaml.safe_load(text)
    except LogError:
        raise
    except (OSError, ValueError, OverflowError, yaml.YAMLError, RecursionError) as error:
        raise log_error(str(path), f"no readable YAML ({error})", "a mapping", fix) from error
    if not isinstance(tree, dict):
        raise log_error(str(path), f"{type(tree).__name__}", "`log` and `sensors`", fix)
    return {str(key): value for key, value in tree.items()}


def _check_plain(text: str, where: str) -> None:
    """A few aliases can stand for gigabytes, and deep nesting takes for ever: refuse both before they are built."""
    depth = 0
    for event in yaml.parse(text, yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if isinstance(event, yaml.AliasEvent) or depth > DEEPEST:
            raise log_error(where, "an alias (*name) or deep nesting", "plain YAML", "Write the values out.")


def _files(folder: Path, mapping: LogMap) -> list[Path]:
    """The HDF5 files the pattern means; hidden files are unfinished writes."""
    try:
        files = sorted(file for file in folder.glob(mapping.files) if file.is_file() and file.name[0] != ".")
    except (ValueError, NotImplementedError, OSError, RecursionError) as error:
        raise log_error(f"{mapping.path}: log", f"{error}", "a file pattern", "Correct it.") from error
    away = [file for file in files if not file.resolve().is_relative_to(folder.resolve())]
    if away:
        found = f"{away[0].name}, a link out of this folder"
        raise log_error(mapping.path, found, "files inside it", "Put the mapping where the files are.")
    return [file for file in files if not is_native_file(file)]


def _groups(path: str, pattern: str) -> list[str]:
    """The groups of a file that match, or the root; also the root of a file that cannot be opened."""
    try:
        return _matching(POOL.get(Hdf5File, path), pattern.split("/")) if pattern else [""]
    except LogError:
        return [""]


def _matching(file: Hdf5File, parts: list[str]) -> list[str]:
    """Paths of the groups whose names match, one part a level; of more than `MOST_GROUPS` the first."""
    found = [""]
    for part in parts:
        inner = (f"{top}/{name}" for top in found for name in _groups_of(file, top) if fnmatchcase(name, part))
        found = list(islice(inner, MOST_GROUPS + 1))
    return found


def _groups_of(file: Hdf5File, top: str) -> list[str]:
    return [name for name, node in file.children(top or "/").items() if isinstance(node, h5py.Group)]


def _at(group: str, name: str) -> str:
    return name if name.startswith("/") else f"{group}/{name}"


def _sensor(path: str, group: str, name: str, sensor: MappedSensor, stamps: Stamps | None, origin: Fraction) -> Sensor:
    key = _at(group, sensor.path)
    found, where = find(path, key), f"{path}: /{key.strip('/')}"
    modality = sensor.modality or found.modality
    _check(found, sensor, modality, where)
    given = {"modality": modality, "units": sensor.units, "channels": sensor.channels}
    if stamps is None:
        assert sensor.rate_hz is not None
        clock = _regular(found.count, sensor.rate_hz, modality)
        return on_clock(name, clock, found.samples, found.shape, found.dtype, rate_hz=sensor.rate_hz, **given)
    if len(stamps.values) != found.count:
        expected = f"one for each of {found.count} samples"
        raise log_error(where, f"{len(stamps.values)} stamps in {sensor.times}", expected, "Name the right stamps.")
    times = stamps.seconds(origin)
    return stamped(
        name, times, found.samples, found.shape, found.dtype, where, rate_hz=sensor.rate_hz or 0.0, **given
    )  # fmt: skip


def _check(found: Found, sensor: MappedSensor, modality: str, where: str) -> None:
    is_video = found.dtype == "uint8" and len(found.shape) == 3 and found.shape[2] == 3
    if modality == "video" and not is_video:
        shown = f"{found.dtype} samples of shape {found.shape}"
        expected = "uint8 frames (H, W, 3), or JPEG or PNG bytes"
        raise log_error(where, shown, expected, "Name another modality, or convert them.")
    if sensor.channels and len(sensor.channels) != found.shape[-1]:
        shown = f"{len(sensor.channels)} channel names for a last axis of {found.shape[-1]}"
        raise log_error(where, shown, "one name per channel", "Correct `channels`.")


def _regular(count: int, rate_hz: float, modality: str) -> Clock:
    """Sound has too many samples to keep a stamp for each."""
    if modality == "audio":
        return AnchoredClock(np.zeros((1, 2)), rate_hz, count)
    return StampedClock(np.arange(count) / rate_hz)
