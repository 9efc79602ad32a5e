"""What a LeRobotDataset root (v2.1 or v3.0) says of itself in `meta/`: features, tasks, and where each episode lies."""

import json
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from multisense.logs.base import LogError, how_to_install, log_error
from multisense.logs.clock import check_rate
from multisense.logs.files import LONGEST_NAME, stays_inside

VERSIONS = ("v2.1", "v3.0")
MAX_TASKS = 1 << 20
SOUND_PATHS = {
    "v2.1": "audio/chunk-{episode_chunk:03d}/{audio_key}/episode_{episode_index:06d}.m4a",
    "v3.0": "audio/{audio_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.m4a",
}
"""Where sound is, unless `audio_path` in info.json says otherwise."""


@dataclass(frozen=True)
class MediaPart:
    """Where a camera's frames or a microphone's samples of an episode are: between two times of a file."""

    path: str
    start_s: float = 0.0
    stop_s: float = math.inf


@dataclass(frozen=True)
class Episode:
    index: int
    length: int
    """Number of rows, as `meta/` has it."""
    data: str
    """Parquet file"""
    videos: Mapping[str, MediaPart]
    """By feature key"""
    sounds: Mapping[str, MediaPart]


@dataclass(frozen=True)
class Root:
    """The checked contents of `meta/`."""

    path: str
    version: str
    fps: float
    features: Mapping[str, Mapping[str, Any]]
    tasks: tuple[str, ...]
    episodes: tuple[Episode, ...]


def read_root(path: str | Path) -> Root:
    """Read `meta/` of a LeRobot root.

    Raises LogError when info.json is missing, invalid, of another version, or disagrees with the episodes listed.
    """
    root = Path(path)
    where = f"{root / 'meta' / 'info.json'}"
    info = _read_info(root / "meta" / "info.json")
    if info.get("codebase_version") not in VERSIONS:
        fix = "Convert the data set with the scripts of the lerobot package."
        raise log_error(where, f"codebase_version={info.get('codebase_version')!r}", f"one of {VERSIONS}", fix)
    _check_info(info, where)
    info.setdefault("audio_path", SOUND_PATHS[info["codebase_version"]])
    is_v3 = info["codebase_version"] == "v3.0"
    episodes = _episodes_v3(root, info) if is_v3 else _episodes_v2(root, info)
    _check_totals(info, episodes, where)
    tasks = _tasks_v3(root) if is_v3 else _tasks_v2(root)
    if tasks and not 0 <= min(tasks) <= max(tasks) < MAX_TASKS:
        found = f"task_index {min(tasks)} to {max(tasks)}"
        raise log_error(str(root / "meta"), found, f"0 to {MAX_TASKS}", "Download it again.")
    names = tuple(tasks.get(index, str(index)) for index in range(max(tasks, default=-1) + 1))
    return Root(str(root), info["codebase_version"], float(info["fps"]), info["features"], names, tuple(episodes))


def read_columns(path: str, columns: list[str]) -> dict[str, Any]:
    """Whole columns of a parquet file as {name: pyarrow column}; names that are not there are left out."""
    with open_parquet(path) as file:
        there = set(file.schema_arrow.names)
        with readable(path):
            table = file.read(columns=[name for name in columns if name in there], use_threads=False)
    return {name: table.column(name) for name in table.column_names}


@contextmanager
def readable(path: str) -> Iterator[None]:
    """Turns what pyarrow raises over damaged data into a LogError."""
    import pyarrow as pa

    try:
        yield
    except LogError:
        raise
    except (pa.ArrowException, OSError, ValueError, TypeError, AttributeError, LookupError, ArithmeticError) as error:
        reason = str(error).partition("\n")[0][:300]
        raise log_error(path, f"an unreadable parquet file ({reason})", "a whole one", "Copy it again.") from error


def open_parquet(path: str) -> Any:
    """A pyarrow ParquetFile; LogError when pyarrow or the file is missing, or the file is damaged."""
    try:
        import pyarrow.parquet as pq
    except ImportError as error:
        fix = how_to_install("lerobot")
        raise log_error(path, "no pyarrow in this environment", "it, to read parquet", fix) from error
    if not Path(path).is_file():
        raise log_error(path, "no such file", "a parquet file, as meta/ says", "Download the data set again.")
    with readable(path):
        return pq.ParquetFile(path)


def _read_info(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise log_error(str(path), "no such file", "the info.json of a LeRobot root", "Check the path.")
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise log_error(str(path), f"invalid JSON ({error})", "valid JSON", "Download it again.") from error
    if not isinstance(info, dict):
        raise log_error(str(path), f"a {type(info).__name__}", "a JSON object", "Download it again.")
    return info


def _check_info(info: dict[str, Any], where: str) -> None:
    for key, kinds in {"fps": (int, float), "features": (dict,), "data_path": (str,)}.items():
        if not isinstance(info.get(key), kinds):
            found = f"{key}={info.get(key)!r}"
            raise log_error(where, found, " or ".join(kind.__name__ for kind in kinds), "Download it again.")
    if not info["fps"] > 0:
        raise log_error(where, f"fps={info['fps']}", "a positive number", "Correct it.")
    check_rate(info["fps"], f"{where}: fps")
    for key, feature in info["features"].items():
        good = isinstance(feature, dict) and isinstance(feature.get("dtype"), str) and _is_shape(feature.get("shape"))
        if not good:
            raise log_error(f"{where}: features.{key}", f"{feature!r}", "dtype and shape", "Download it again.")


def _is_shape(sides: Any) -> bool:
    whole = isinstance(sides, list) and all(isinstance(side, int) and side >= 0 for side in sides)
    return bool(whole and sides)


def _check_totals(info: dict[str, Any], episodes: list[Episode], where: str) -> None:
    found = {"total_episodes": len(episodes), "total_frames": sum(episode.length for episode in episodes)}
    for key, count in found.items():
        if key in info and info[key] != count:
            fix = "info.json and the episode list are of different states: download the data set again."
            raise log_error(where, f"{key}={info[key]}", f"{count}, as the episode list has it", fix)


def _episodes_v2(root: Path, info: dict[str, Any]) -> list[Episode]:
    return [_episode_v2(root, info, row) for row in _read_lines(root / "meta" / "episodes.jsonl", "episode_index")]


def _episode_v2(root: Path, info: dict[str, Any], row: dict[str, Any]) -> Episode:
    where = str(root / "meta" / "episodes.jsonl")
    index, length = _whole(row["episode_index"], where), _whole(row.get("length", -1), where)
    chunk = _whole(info.get("chunks_size", 1000), str(root / "meta" / "info.json"))
    place = {"episode_chunk": index // max(chunk, 1), "episode_index": index}
    videos = {k: MediaPart(_fill(root, info, "video_path", place | {"video_key": k})) for k in _keys(info, "video")}
    sounds = {k: MediaPart(_fill(root, info, "audio_path", place | {"audio_key": k})) for k in _keys(info, "audio")}
    return Episode(index, length, _fill(root, info, "data_path", place), videos, sounds)


def _episodes_v3(root: Path, info: dict[str, Any]) -> list[Episode]:
    files = sorted((root / "meta" / "episodes").glob("*/*.parquet"))
    if not files:
        raise log_error(
            str(root / "meta" / "episodes"), "no parquet file", "the list of episodes", "Download it again."
        )
    parts = ("chunk_index", "file_index", "from_timestamp", "to_timestamp")
    videos = [f"videos/{key}/{part}" for key in _keys(info, "video") for part in parts[:3]]
    sounds = [f"audio/{key}/{part}" for key in _keys(info, "audio") for part in parts]
    wanted = ["episode_index", "length", "data/chunk_index", "data/file_index", *videos, *sounds]
    episodes = []
    for path in files:
        columns = {name: column.to_pylist() for name, column in read_columns(str(path), wanted).items()}
        missing = sorted(set(wanted) - set(columns))
        if missing:
            raise log_error(str(path), f"no columns {missing}", "where each episode lies", "Download it again.")
        rows = zip(*(columns[name] for name in wanted), strict=True)
        episodes += [_episode_v3(root, info, dict(zip(wanted, row, strict=True))) for row in rows]
    return episodes


def _episode_v3(root: Path, info: dict[str, Any], row: dict[str, Any]) -> Episode:
    place = {"chunk_index": row["data/chunk_index"], "file_index": row["data/file_index"]}
    videos = {key: _media_v3(root, info, "video", f"videos/{key}", row) for key in _keys(info, "video")}
    sounds = {key: _media_v3(root, info, "audio", f"audio/{key}", row) for key in _keys(info, "audio")}
    data = _fill(root, info, "data_path", place)
    where = str(root / "meta" / "episodes")
    return Episode(_whole(row["episode_index"], where), _whole(row["length"], where), data, videos, sounds)


def _media_v3(root: Path, info: dict[str, Any], kind: str, prefix: str, row: dict[str, Any]) -> MediaPart:
    place = {part: row[f"{prefix}/{part}"] for part in ("chunk_index", "file_index")}
    path = _fill(root, info, f"{kind}_path", place | {f"{kind}_key": prefix.partition("/")[2]})
    times = [row[f"{prefix}/from_timestamp"], row.get(f"{prefix}/to_timestamp", math.inf)]
    if not all(isinstance(time, float) and not math.isnan(time) for time in times):
        where = str(root / "meta" / "episodes")
        raise log_error(where, f"{prefix} from {times[0]} to {times[1]}", "seconds", "Download it again.")
    return MediaPart(path, *times)


def _whole(value: Any, where: str) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise log_error(where, f"{value!r:.80}", "a whole number", "Download the data set again.")


def _keys(info: dict[str, Any], dtype: str) -> list[str]:
    return [key for key, feature in info["features"].items() if feature["dtype"] == dtype]


def _fill(root: Path, info: dict[str, Any], key: str, place: dict[str, Any]) -> str:
    """A path template of info.json, filled in; it may not lead out of the root."""
    where = f"{root / 'meta' / 'info.json'}: {key}"
    try:
        template = str(info[key])
        if len(template) > LONGEST_NAME or re.search(r"\d{4}", "".join(re.findall(r"{[^}]*", template))):
            raise ValueError("a width of thousands of characters")
        name = template.format(**place)
    except (KeyError, IndexError, ValueError, AttributeError, TypeError) as error:
        fix = "Take the template of a data set of this version."
        raise log_error(where, repr(info.get(key)), f"a template of {sorted(place)}", fix) from error
    if not stays_inside(name):
        raise log_error(where, f"{name!r} outside the data set", "a path inside it", "Correct the template.")
    return str(root / name)


def _tasks_v2(root: Path) -> dict[int, str]:
    path = root / "meta" / "tasks.jsonl"
    return {_whole(row.get("task_index"), str(path)): str(row["task"]) for row in _read_lines(path, "task")}


def _tasks_v3(root: Path) -> dict[int, str]:
    """{index: text}; the text is a column, or the pandas index of the table."""
    columns = read_columns(str(root / "meta" / "tasks.parquet"), ["task_index", "task", "__index_level_0__"])
    texts = columns.get("task", columns.get("__index_level_0__"))
    if texts is None or "task_index" not in columns:
        where = str(root / "meta" / "tasks.parquet")
        raise log_error(where, f"columns {sorted(columns)}", "task_index and task", "Download it again.")
    where = str(root / "meta" / "tasks.parquet")
    indices = [_whole(index, where) for index in columns["task_index"].to_pylist()]
    return dict(zip(indices, map(str, texts.to_pylist()), strict=True))


def _read_lines(path: Path, key: str) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file, each with at least `key`."""
    if not path.is_file():
        raise log_error(str(path), "no such file", "it, in a v2.1 data set", "Download the data set again.")
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise log_error(
            str(path), f"no readable text ({error})", "one object per line", "Download it again."
        ) from error
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line) if line.strip() else None
        except (ValueError, RecursionError) as error:
            raise log_error(f"{path}: line {number}", f"invalid JSON ({error})", "one object per line", "") from error
        if row is not None and (not isinstance(row, dict) or key not in row):
            raise log_error(f"{path}: line {number}", f"{line[:80]!r}", f"an object with {key!r}", "Download it again.")
        rows += [row] if row is not None else []
    return rows
