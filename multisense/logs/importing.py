"""Any logs -> a folder of native logs: in parallel, resumable, with a manifest of what came from where.

How a log is converted, `multisense.logs.converting` says.
"""

import hashlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from multisense.logs.base import LogError, SensorLog, log_error
from multisense.logs.converting import convert, safe_name
from multisense.logs.hdf5_file import naming_damage
from multisense.logs.native_write import VERSION, publish
from multisense.logs.open import survey_logs
from multisense.logs.parallel import each
from multisense.logs.unfinished import open_hdf5

IMPORT_VERSION = 1
"""Raised when the same source gives other files."""
MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Imported:
    """What an import made."""

    logs: tuple[Path, ...]
    failed: Mapping[str, str]
    """Why a log could not be imported, by name."""
    manifest: Path


@dataclass(frozen=True)
class _Job:
    log: SensorLog
    path: Path
    size: tuple[int, int] | None
    sensors: tuple[str, ...] | None


def parse_size(size: str | None) -> tuple[int, int] | None:
    """(48, 64) = (height, width) of "48x64". Raises ValueError where it is something else."""
    sides = (size or "").lower().split("x")
    if size is not None and (len(sides) != 2 or not all(side.isdigit() and int(side) for side in sides)):
        raise ValueError(f"--size {size}: expected HEIGHTxWIDTH, for example 64x64")
    return None if size is None else (int(sides[0]), int(sides[1]))


def import_logs(
    source: str | Path | Sequence[SensorLog],
    out: str | Path,
    size: tuple[int, int] | None = None,
    sensors: Sequence[str] | None = None,
    workers: int | None = None,
) -> Imported:
    """Write every log of `source` (a path, or logs) as a native log into the folder `out`, and a `manifest.json`.

    `size` (height, width) resizes pictures; `sensors` chooses by name (default: all). Logs run in parallel over `workers`
    processes. A log appears under its name only when whole, and one already there from the same source is kept, so a
    run that was stopped goes on. A log that cannot be read is listed as failed, and the others are imported.

    Raises:
        LogError: nothing readable in `source`, sensors that no log has, or an `out` of another import.
    """
    opened, errors = survey_logs(source) if isinstance(source, (str, Path)) else (list(source), {})
    failed = {name: str(error) for name, error in errors.items()}
    _check_sensors(opened, sensors, str(source))
    folder = Path(out)
    manifest = _claim(
        folder, {"import": IMPORT_VERSION, "size": size and list(size), "sensors": sensors and [*sensors]}
    )
    chosen = tuple(sensors) if sensors else None
    jobs = {
        job.path.stem: job for job in (_Job(log, folder / f"{safe_name(log.name)}.h5", size, chosen) for log in opened)
    }
    if len(jobs) < len(opened):
        raise log_error(str(source), "logs of one name", "a name for each", "Import them into folders of their own.")
    missing = [job for name, job in jobs.items() if not _is_done(job, manifest["logs"].get(name))]
    columns = (TextColumn("importing"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        task = progress.add_task("logs", total=len(jobs), completed=len(jobs) - len(missing))
        for name, entry, error in _noting(folder, manifest, missing, workers):
            progress.advance(task)
            if error:
                failed[name] = error
            else:
                manifest["logs"][name] = entry
    _write_manifest(folder, {**manifest, "failed": failed})
    paths = tuple(job.path for name, job in jobs.items() if name not in failed)
    return Imported(paths, failed, folder / MANIFEST)


def _noting(folder: Path, manifest: dict, jobs: list[_Job], workers: int | None) -> Iterator[tuple[str, dict, str]]:
    """Run the jobs; the manifest is written every few seconds and when they end, however they end."""
    written = time.monotonic()
    try:
        for done in each(_import, jobs, workers):
            yield done
            if time.monotonic() - written > 5:
                _write_manifest(folder, manifest)
                written = time.monotonic()
    finally:
        _write_manifest(folder, manifest)


def _check_sensors(logs: Sequence[SensorLog], sensors: Sequence[str] | None, where: str) -> None:
    there = {name for log in logs for name in log.sensors}
    unknown = sorted(set(sensors or ()) - there)
    if logs and unknown:
        raise log_error(where, f"no sensor {unknown} in any log", f"names of {sorted(there)}", "Check the names.")


def _claim(folder: Path, recipe: dict[str, Any]) -> dict[str, Any]:
    """The manifest of the folder, new or of a run before; a folder of another recipe is refused."""
    path = folder / MANIFEST
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        manifest = {"recipe": recipe, "native": VERSION, "logs": {}, "failed": {}}
        _write_manifest(folder, manifest)
        return manifest
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
        found = manifest["recipe"]
        assert isinstance(manifest["logs"], dict)
    except (ValueError, KeyError, TypeError, AssertionError) as error:
        raise log_error(str(path), "no manifest of an import", "one", "Choose another folder.") from error
    if found != recipe:
        raise log_error(str(path), f"an import with {found}", f"{recipe}", "Choose another folder, or remove this one.")
    return manifest


def _write_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    partial = folder / f".{MANIFEST}.partial"
    partial.write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    publish(partial, folder / MANIFEST)


def _is_done(job: _Job, entry: dict[str, Any] | None) -> bool:
    if not entry or not all((job.path.parent / name).is_file() for name in entry["files"]):
        return False
    return entry["fingerprint"] == job.log.fingerprint()


def _import(job: _Job) -> tuple[str, dict[str, Any], str]:
    """(name, manifest entry, error) of one log; the entry lies in the finished file too, should the run end here."""
    try:
        entry = _finished(job) or convert(job.log, job.path, job.size, job.sensors)
    except LogError as error:
        return job.path.stem, {}, str(error)
    return job.path.stem, {**entry, "files": {name: _sha256(job.path.parent / name) for name in entry["files"]}}, ""


def _finished(job: _Job) -> dict[str, Any] | None:
    if not job.path.exists():
        return None
    with naming_damage(str(job.path)), open_hdf5(str(job.path)) as file:
        text = file.attrs.get("imported")
    if not isinstance(text, str):
        raise log_error(str(job.path), "a file no import made", "none of this name", "Choose another folder.")
    entry = json.loads(text)
    return entry if _is_done(job, entry) else None


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
