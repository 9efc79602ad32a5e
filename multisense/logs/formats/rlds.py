"""RLDS data sets as TFDS keeps them: TFRecord shards beside a `features.json`, one log per episode.

`steps/observation/*` and `steps/action*` are the sensors: encoded images of modality "video", vectors of numbers
"proprio". Texts named `*instruction*` are labels, their classes the texts of the whole data set. The flags of RLDS,
rewards and embeddings are no sensors, and the log's `skipped` says so. There are no time stamps in RLDS: step k is at
k / rate, with the rate that the metadata states, or `DEFAULT_RATE_HZ`; `notes` says which.
"""

import io
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from multisense.logs.base import LogError, SensorLog
from multisense.logs.files import head
from multisense.logs.foreign import ForeignLog, Images, Sensor, stamped
from multisense.logs.formats.rlds_features import FLAGS, Signal, read_json, signals_of
from multisense.logs.formats.tfrecord import HEAD, Feature, Shard, is_head, record_offsets
from multisense.logs.pool import POOL
from multisense.types import Label

DEFAULT_RATE_HZ = 5.0
"""Steps per second where nothing says it: what most teleoperated data sets in this form were recorded at."""
RATE_KEYS = ("fps", "rate_hz", "control_frequency", "control_hz", "frequency")
"""Looked for in metadata.json, dataset_info.json and the episode's `episode_metadata`."""
MAX_TEXT = 1 << 12
"""Bytes above which an instruction is no label."""
MAX_PIXELS = 1 << 26


@dataclass(frozen=True)
class Dataset:
    """What all episodes of a folder share."""

    folder: str
    signals: tuple[Signal, ...]
    skipped: Mapping[str, str]
    texts: Mapping[str, tuple[str, ...]]
    """By key: the different texts of all episodes, sorted."""
    rate_hz: float | None
    rate_from: str


def recognises(path: Path) -> bool:
    """Whether `path` is a folder of TFRecord shards and a features.json, or one such shard."""
    if path.is_dir():
        return (path / "features.json").is_file() and bool(_shards(path))
    return is_head(head(path, HEAD))


def candidates(path: Path) -> dict[str, Callable[[], SensorLog]]:
    """{name: opener} of the episodes: `<split>_<number>`, counted through the shards of a split.

    Raises LogError when features.json is missing or no description of steps.
    """
    folder = path if path.is_dir() else path.parent
    episodes: dict[str, tuple[str, int]] = {}
    counts: dict[str, int] = {}
    for shard in _shards(folder):
        split = shard.name.partition(".tfrecord")[0].rpartition("-")[2]
        for offset in record_offsets(str(shard)):
            number = counts[split] = counts.get(split, -1) + 1
            if path in (folder, shard):
                episodes[f"{split}_{number:06d}"] = (str(shard), offset)
    dataset = _dataset(folder, list(episodes.values()))
    return {name: partial(_episode, dataset, name, *episodes[name]) for name in sorted(episodes)}


def _shards(folder: Path) -> list[Path]:
    return sorted(file for file in folder.glob("*.tfrecord*") if file.is_file())


def _dataset(folder: Path, records: list[tuple[str, int]]) -> Dataset:
    where = folder / "features.json"
    signals, skipped = signals_of(read_json(where), str(where))
    texts = {signal.key: _texts(records, signal.key) for signal in signals if signal.kind == "text"}
    for name in ("metadata.json", "dataset_info.json"):
        content = read_json(folder / name) if (folder / name).is_file() else {}
        for key in RATE_KEYS:
            if _is_rate(content.get(key)):
                return Dataset(str(folder), signals, skipped, texts, float(content[key]), f"{key} in {name}")
    return Dataset(str(folder), signals, skipped, texts, None, "")


def _episode(dataset: Dataset, name: str, path: str, offset: int) -> ForeignLog:
    """One record as a log. Its heads are checked here; the checksum of its data when samples are first read."""
    shard = POOL.get(Shard, path)
    entries = shard.entries(offset)
    lists = {key: shard.feature(entry) for key, entry in entries.items() if _is_small(key) or _used(dataset, key)}
    count = next((shard.count(lists[key]) for key in _counted(dataset) if key in lists), 0)
    rate_hz, note = _rate(dataset, shard, lists)
    sensors, labels, skipped = [], [], dict(dataset.skipped)
    for signal in dataset.signals:
        made = _made(signal, shard, offset, lists.get(signal.key), dataset.texts.get(signal.key, ()), count, rate_hz)
        if isinstance(made, str):
            skipped[signal.key] = made
        elif isinstance(made, Sensor):
            sensors.append(made)
        else:
            labels += made
    files = [path, str(Path(dataset.folder) / "features.json")]
    notes = {sensor.info.name: note for sensor in sensors}
    return ForeignLog(name, dataset.folder, sensors, labels=labels, files=files, skipped=skipped, notes=notes)


def _made(
    signal: Signal,
    shard: Shard,
    offset: int,
    feature: Feature | None,
    texts: tuple[str, ...],
    count: int,
    rate_hz: float,
) -> Sensor | list[Label] | str:
    """The sensor or the labels that a feature gives, or why it gives none."""
    where = f"{shard.path}: record at byte {offset}: {signal.key}"
    kinds = ("float", "int") if signal.kind == "numbers" else ("bytes",)
    if feature is None or feature.kind not in kinds:
        return "not in this episode" if feature is None else f"a list of {feature.kind}, not what features.json says"
    size = math.prod(signal.shape) if signal.kind == "numbers" else 1
    if not count or shard.count(feature) != count * size:
        return f"{shard.count(feature)} values in {count} steps of {size}"
    times_s = np.arange(count) / rate_hz
    if signal.kind == "text":
        return _labels(signal, shard.texts(feature), texts, times_s)
    encoded = Values(shard.path, offset, signal)
    if signal.kind == "numbers":
        modality = "proprio" if len(signal.shape) == 1 else ""
        return stamped(
            signal.name, times_s, encoded, signal.shape, signal.dtype, where, modality=modality, rate_hz=rate_hz
        )
    shape = _image_shape(shard.bytes[slice(*feature.spans[0])])
    if shape is None or any(side not in (-1, found) for side, found in zip(signal.shape[:2], shape, strict=False)):
        return f"no JPEG or PNG of shape {signal.shape}, but {shape or 'something else'}"
    images = Images(encoded, shape, where)
    return stamped(signal.name, times_s, images, shape, "uint8", where, modality="video", rate_hz=rate_hz)


@dataclass(frozen=True)
class Values:
    """Samples of one feature of one record; of images, their bytes."""

    path: str
    offset: int
    signal: Signal

    def read(self, first: int, last: int) -> np.ndarray:
        record = POOL.get(_Checked(self.offset), self.path)
        if self.signal.kind == "image":
            return record.encoded(self.signal.key, first, last)
        size = math.prod(self.signal.shape)
        values = record.numbers(self.signal.key, first * size, last * size)
        return values.astype(self.signal.dtype).reshape(last - first, *self.signal.shape)


@dataclass(frozen=True)
class _Checked:
    """Opens a record whose checksum is right; hashable, so that the pool knows it again."""

    offset: int

    def __call__(self, path: str) -> "_Record":
        return _Record(path, self.offset)


class _Record:
    def __init__(self, path: str, offset: int) -> None:
        self._shard = Shard(path)
        self._shard.check(offset)
        self._entries = self._shard.entries(offset)
        self._lists: dict[str, Feature] = {}
        self._ints: dict[str, np.ndarray] = {}

    def encoded(self, key: str, first: int, last: int) -> np.ndarray:
        out = np.empty(last - first, object)
        out[:] = [self._shard.bytes[begin:end] for begin, end in self._list(key).spans[first:last]]
        return out

    def numbers(self, key: str, first: int, last: int) -> np.ndarray:
        if self._list(key).kind == "float":
            return self._shard.floats(self._list(key), first, last)
        if key not in self._ints:  # numbers of different lengths: they cannot be counted off
            self._ints[key] = self._shard.ints(self._list(key))
        return self._ints[key][first:last]

    def close(self) -> None:
        self._shard.close()

    def _list(self, key: str) -> Feature:
        if key not in self._lists:
            self._lists[key] = self._shard.feature(self._entries[key])
        return self._lists[key]


def _labels(signal: Signal, found: list[str], texts: tuple[str, ...], times_s: np.ndarray) -> list[Label] | str:
    """None in a data set of one text; else one value per log, or one per step where the text changes."""
    if not set(found) <= set(texts):
        return f"texts of more than {MAX_TEXT} bytes"
    if len(texts) < 2:
        return []
    index = {text: i for i, text in enumerate(texts)}
    values = np.array([index[text] for text in found])
    if (values == values[0]).all():
        return [Label(signal.name, np.asarray(values[0]), None, "unique", texts)]
    return [Label(signal.name, values, times_s, "unique", texts)]


def _texts(records: list[tuple[str, int]], key: str) -> tuple[str, ...]:
    found: set[str] = set()
    for path, offset in records:
        shard = POOL.get(Shard, path)
        try:
            entry = shard.entries(offset).get(key)
            spans = shard.feature(entry).spans if entry else ()
        except LogError:  # said when this episode itself is opened
            continue
        found |= {shard.bytes[begin:end].decode("utf-8", "replace") for begin, end in spans if end - begin <= MAX_TEXT}
    return tuple(sorted(found))


def _rate(dataset: Dataset, shard: Shard, lists: Mapping[str, Feature]) -> tuple[float, str]:
    """(steps per second, a note that says where it is from)."""
    if dataset.rate_hz is not None:
        return dataset.rate_hz, f"no time stamps: {dataset.rate_hz:g} steps per second by {dataset.rate_from}"
    for key in RATE_KEYS:
        feature = lists.get(f"episode_metadata/{key}")
        if feature is not None and feature.kind != "bytes" and shard.count(feature) == 1:
            values = shard.floats(feature, 0, 1) if feature.kind == "float" else shard.ints(feature)
            if _is_rate(float(values[0])):
                return float(values[0]), f"no time stamps: {values[0]:g} steps per second by episode_metadata/{key}"
    fix = f'write {{"{RATE_KEYS[0]}": ...}} into metadata.json beside features.json where that is wrong'
    return DEFAULT_RATE_HZ, f"no time stamps and no rate: {DEFAULT_RATE_HZ:g} steps per second assumed; {fix}"


def _is_rate(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < 1e6


def _is_small(key: str) -> bool:
    return key in (f"steps/{flag}" for flag in FLAGS) or key.startswith("episode_metadata/")


def _used(dataset: Dataset, key: str) -> bool:
    return any(signal.key == key for signal in dataset.signals)


def _counted(dataset: Dataset) -> list[str]:
    """Features with one value per step: RLDS has its flags in every data set; else images and texts."""
    return [f"steps/{flag}" for flag in FLAGS] + [s.key for s in dataset.signals if s.kind != "numbers"]


def _image_shape(data: bytes) -> tuple[int, ...] | None:
    """(height, width, 3) as the image's own head has it."""
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as image:
            return (image.height, image.width, 3) if image.height * image.width <= MAX_PIXELS else None
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None
