"""A run and logs -> embeddings on disk.

While it works, finished logs lie one by one in the folder `<out>.parts`, each complete or not there at all; when all
are there they become the one file `out`. A killed run therefore loses the log it was at and nothing else, and never
leaves a file that cannot be read.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import h5py
import numpy as np
import torch
from rich.progress import track
from torch.utils.data import DataLoader

from multisense.checkpoint import warn_if_unfinished
from multisense.clips import Rolling, Windows, collate
from multisense.logs.base import LogError, SensorLog
from multisense.logs.open import survey_logs
from multisense.logs.pool import POOL
from multisense.model import MultiSense
from multisense.run import Run, check_logs, open_run
from multisense.types import Batch, TokenBatch

T = TypeVar("T")
END = object()
FORMAT = "multisense-embeddings"
VERSION = 1


@dataclass(frozen=True)
class EmbedReport:
    """What `embed_logs` did: windows per embedded log, and why each quarantined log could not be read."""

    path: Path
    windows: Mapping[str, int]
    quarantined: Mapping[str, str]
    complete: bool
    """False after one shard of several: run once more without a shard to gather them."""

    def __str__(self) -> str:
        lost = "".join(f"\nquarantined {name}: {why}" for name, why in self.quarantined.items())
        return f"{sum(self.windows.values())} windows of {len(self.windows)} logs in {self.path}{lost}"


def embed_path(
    run: Path, logs: str | Path, out: Path, window_s: float | None, stride_s: float, sensors: Sequence[str] | None
) -> EmbedReport:
    """`embed_logs` for the run in folder `run` and everything readable at the path `logs`; quarantines the rest.

    Of several processes (`accelerate launch -m multisense embed ...`) each embeds every n-th log; the first gathers them.
    """
    readable, errors = survey_logs(logs)
    if not readable:
        raise LogError(
            f"{logs}: none of {len(errors)} logs can be read; the first: {next(iter(errors.values()), 'none')}"
        )
    broken = {name: str(error) for name, error in errors.items()}
    rank, processes = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"
    opened = open_run(run, device)
    if rank == 0:
        warn_if_unfinished(opened)
    embed = partial(
        embed_logs, opened, readable, out, window_s=window_s, stride_s=stride_s, sensors=sensors, quarantined=broken
    )
    if processes == 1:
        return embed()
    report = embed(shard=(rank, processes))
    torch.distributed.init_process_group("gloo", timeout=timedelta(days=7))
    torch.distributed.barrier()  # until every shard is there
    return embed() if rank == 0 else report


def embed_logs(
    run: Run,
    logs: Sequence[SensorLog],
    out: Path,
    *,
    window_s: float | None = None,
    stride_s: float = 0.5,
    sensors: Sequence[str] | None = None,
    shard: tuple[int, int] = (0, 1),
    batch_size: int = 32,
    quarantined: Mapping[str, str] | None = None,
) -> EmbedReport:
    """Embed every window of `logs` with the sensors given (all by default) and write the HDF5 file `out`.

    One group per log: `starts_s` (N,) on the log's clock, `fused` (N, F), `per_sensor/<name>` (N, F), `per_time`
    (N, K, F) with `times_s` (K,) relative to the start, `valid/<name>` (N,). What `out` holds already is kept: a log that is
    in it as it is now is not embedded again, one that changed is, and those of earlier calls stay (begin a new file to be
    rid of them). `shard` (i, n) embeds every n-th log only, for n processes at once; a last call without it gathers them.

    Raises ValueError if a window is not the run's clip length, if `out` was made with other settings or weights, if a
    sensor asked for is in none of the logs, or if a log's sensor is not of the shape, rate, channels or units that the
    run was trained on. A sensor that some logs lack is not valid there. A log that turns out unreadable is quarantined:
    the report and the file's attribute `quarantined` say which and why, together with those given as `quarantined`; none
    of them has a group.
    """
    check_logs(run.config, run.grids, logs)
    _refuse_missing(run, logs, sensors)
    settings = embedding_settings(run, window_s, stride_s, sensors)
    groups = group_names(logs)
    done = Parts(Path(out), settings)
    unreadable = dict(quarantined or {})
    mine = list(zip(groups, logs, strict=True))[shard[0] :: shard[1]]
    todo = {group: log for group, log in mine if not done.has(group, log)}
    read = ahead(_read(list(todo.values()), run, stride_s, batch_size))
    for group, log in track(todo.items(), "embedding", transient=True):
        try:
            done.write(group, log, _arrays(run.model, iter(partial(next, read), None), settings["sensors"]))
        except LogError as error:
            unreadable[log.name] = str(error)
    groups = [group for group in groups if group not in unreadable]
    if shard[1] > 1:
        return EmbedReport(Path(out), done.windows(groups), unreadable, complete=False)
    done.gather(groups, run.provenance, unreadable)
    return EmbedReport(Path(out), done.windows(groups), unreadable, complete=True)


def _refuse_missing(run: Run, logs: Sequence[SensorLog], sensors: Sequence[str] | None) -> None:
    held = {name for log in logs for name in log.sensors}
    missing = [name for name in sensors or run.model.names if name in run.model.names and name not in held]
    if missing:
        others = ",".join(name for name in run.model.names if name in held)
        raise LogError(
            f"{run.path} was trained on {', '.join(run.model.names)}; none of the {len(logs)} logs has {missing}. To "
            f"embed without: --sensors {others}"
        )


def _read(logs: Sequence[SensorLog], run: Run, stride_s: float, batch_size: int) -> Iterator[Batch | LogError | None]:
    """The windows of one log after the other, in batches; None ends a log, or the error of what could not be read."""
    for log in logs:
        try:
            windows = Windows([Rolling(log, run.grids)], run.grids, run.config.data.clip_seconds, stride_s)
            yield from batches(windows, batch_size)
        except LogError as error:
            yield error
        else:
            yield None


def batches(windows: Windows, batch_size: int = 32) -> DataLoader:
    """The windows in order, as batches."""
    return DataLoader(windows, batch_size, collate_fn=collate)


def ahead(given: Iterable[T]) -> Iterator[T]:
    """The same items, each next one made by a thread while the last one is used: decoding needs no Python lock."""
    items = iter(given)
    with ThreadPoolExecutor(1) as thread:
        try:
            coming = thread.submit(next, items, END)
            while (item := coming.result()) is not END:
                coming = thread.submit(next, items, END)
                yield cast(T, item)
        finally:
            thread.submit(POOL.close)  # what a thread has open is its own


@torch.no_grad()
def embed_subsets(
    model: MultiSense, batch: Batch, subsets: Sequence[tuple[str, ...]]
) -> dict[tuple[str, ...], np.ndarray]:
    """Fused vectors (B, F) from each subset of the sensors alone, as `model.embed(batch, subset)` gives them; a row of
    NaN where none of the subset is there. Tokenizing once, and dropping tokens instead of masking them, makes fifteen
    subsets several times cheaper than fifteen embeddings."""
    model.eval()
    tokens = model.tokenize(batch.to(model.time_s.device))
    return {subset: _from_subset(model, tokens, subset) for subset in subsets}


def _from_subset(model: MultiSense, tokens: TokenBatch, subset: Sequence[str]) -> np.ndarray:
    wanted = torch.tensor([model.names.index(name) for name in subset], device=model.sensor.device)
    keep = torch.isin(model.sensor, wanted).nonzero()[:, 0]
    parts = [(s, len(model.tokenizer(name))) for s, name in enumerate(model.names) if name in subset]
    latents, valid = model.encode_kept(tokens, keep.expand(len(tokens.tokens), -1), parts)
    everywhere = latents.new_zeros(*tokens.valid.shape, latents.shape[-1]).index_copy(1, keep, latents)
    fused = model.pool(everywhere, torch.zeros_like(tokens.valid).index_copy(1, keep, valid)).fused
    return torch.where(valid.any(1)[:, None], fused.float(), torch.nan).cpu().numpy()


def embedding_settings(
    run: Run, window_s: float | None, stride_s: float, sensors: Sequence[str] | None
) -> dict[str, Any]:
    """What must agree for two embeddings to stand in one file."""
    clip = run.config.data.clip_seconds
    if window_s is not None and abs(window_s - clip) > 1e-9:
        raise ValueError(
            f"window of {window_s} s: {run.path} was trained on clips of {clip} s (data.clip_seconds) and its tokens "
            f"stand at fixed times in them; use --window {clip}, or train with data.clip_seconds={window_s}"
        )
    if stride_s <= 0:
        raise ValueError(f"stride of {stride_s} s: expected a positive number of seconds")
    unknown = sorted(set(sensors or ()) - set(run.model.names))
    if unknown:
        raise ValueError(f"no sensor {unknown} in {run.path}; it was trained on {list(run.model.names)}")
    chosen = [n for n in run.model.names if sensors is None or n in sensors]
    return {"window_s": clip, "stride_s": stride_s, "sensors": chosen, "weights": weights_fingerprint(run.model)}


def read_settings(path: Path) -> dict[str, Any]:
    """With what a file of embeddings was made: window, stride, sensors, weights. ValueError for any other file."""
    if h5py.is_hdf5(path):
        with h5py.File(path) as file:
            if file.attrs.get("format") == FORMAT:
                return json.loads(str(file.attrs["settings"]))
    raise ValueError(f"{path}: exists and is not a file of embeddings; choose another name or remove it")


def weights_fingerprint(model: torch.nn.Module) -> str:
    """A short hash of every weight by name."""
    digest = hashlib.sha256()
    for name, weight in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(weight.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def group_names(logs: Sequence[SensorLog]) -> list[str]:
    """The names of the logs' groups in a file. Raises ValueError where two logs have one name."""
    names = [log.name for log in logs]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"two logs are named {twice[:3]}: their groups would be one; embed them into separate files")
    return names


def log_arrays(
    model: MultiSense, log: SensorLog, stride_s: float, sensors: Sequence[str], batch_size: int = 32
) -> dict[str, np.ndarray]:
    """The arrays of a log's group in a file of embeddings, by name; without a window only `starts_s` (0,)."""
    return window_arrays(
        model, Windows([Rolling(log, model.grids)], model.grids, model.seconds, stride_s), sensors, batch_size
    )


def window_arrays(
    model: MultiSense, windows: Windows, sensors: Sequence[str], batch_size: int = 32
) -> dict[str, np.ndarray]:
    """`log_arrays` of any windows, in their order."""
    return _arrays(model, ahead(batches(windows, batch_size)), sensors)


def _arrays(model: MultiSense, given: Iterable[Batch | LogError], sensors: Sequence[str]) -> dict[str, np.ndarray]:
    """What is kept of one log, from what `_read` gives of it. Raises the error that it gives."""
    parts, starts_s = [], []
    for batch in given:
        if isinstance(batch, LogError):
            raise batch
        parts.append(model.embed(batch.to(model.time_s.device), sensors))
        starts_s += batch.starts_s
    if not parts:
        return {"starts_s": np.zeros(0)}

    def joined(pieces: Iterator[torch.Tensor]) -> np.ndarray:
        return torch.cat(list(pieces)).cpu().numpy()

    arrays = {
        "starts_s": np.array(starts_s),
        "times_s": parts[0].times_s.cpu().numpy(),
        "fused": joined(p.fused.float() for p in parts),
        "per_time": joined(p.per_time.float() for p in parts),
    }
    for name in sensors:
        arrays[f"per_sensor/{name}"] = joined(p.per_sensor[name].float() for p in parts)
        arrays[f"valid/{name}"] = joined(p.valid[name] for p in parts)
    return arrays


class Parts:
    """The embedded logs so far: groups of a finished file `out`, or single files in `<out>.parts`."""

    def __init__(self, out: Path, settings: Mapping[str, Any]) -> None:
        self.out, self.folder, self.settings = out, out.with_name(out.name + ".parts"), settings
        for path in [self.out] if self.out.exists() else sorted(self.folder.glob("*.h5"))[:1]:
            self._check(path)
        self.folder.mkdir(parents=True, exist_ok=True)

    def _check(self, path: Path) -> None:
        found = read_settings(path)
        differ = [f"{k}: {found.get(k)} there, {v} asked for" for k, v in self.settings.items() if found.get(k) != v]
        if differ:
            raise ValueError(
                f"{path}: was made with other settings ({'; '.join(differ)}); remove it or write elsewhere"
            )

    def part(self, group: str) -> Path:
        return self.folder / f"{hashlib.sha256(group.encode()).hexdigest()[:24]}.h5"

    def has(self, group: str, log: SensorLog) -> bool:
        """Whether the log was embedded already, as it is now; a part is newer than the file."""
        for path in (self.part(group), self.out):
            if path.exists():
                with h5py.File(path) as file:
                    if group in file:
                        return file[group].attrs.get("fingerprint") == log.fingerprint()
        return False

    def write(self, group: str, log: SensorLog, arrays: Mapping[str, np.ndarray]) -> None:
        path = self.part(group)
        fresh = path.with_suffix(f".{os.getpid()}.tmp")
        with h5py.File(fresh, "w") as file:
            self._stamp(file)
            here = file.create_group(group)
            here.attrs.update(log=log.name, fingerprint=log.fingerprint())
            for name, array in arrays.items():
                here.create_dataset(name, data=array)
        os.replace(fresh, path)

    def _stamp(self, file: h5py.File) -> None:
        file.attrs.update(format=FORMAT, version=VERSION, settings=json.dumps(self.settings))

    def _sources(self) -> dict[str, Path]:
        """Where each finished group lies; a part is newer than the file."""
        found: dict[str, Path] = {}
        for path in ([self.out] if self.out.exists() else []) + sorted(self.folder.glob("*.h5")):
            with h5py.File(path) as file:
                found |= dict.fromkeys(file, path)
        return found

    def windows(self, groups: Sequence[str]) -> dict[str, int]:
        counts, found = {}, self._sources()
        for group in groups:
            if group in found:
                with h5py.File(found[group]) as file:
                    counts[group] = len(np.asarray(file[f"{group}/starts_s"]))
        return counts

    def gather(self, groups: Sequence[str], provenance: Mapping[str, Any], quarantined: Mapping[str, str]) -> None:
        """Write `out` from what it held and the parts, those of `groups` last and in their order, and drop the parts."""
        found = self._sources()
        others = [group for group in found if group not in {*groups, *quarantined}]
        order = others + [group for group in groups if group in found]
        fresh = self.out.with_name(f"{self.out.name}.{os.getpid()}.tmp")
        with h5py.File(fresh, "w", track_order=True) as file:
            self._stamp(file)
            broken = {name: why for name, why in self._quarantined().items() if name not in order}
            file.attrs.update(provenance=json.dumps(provenance), quarantined=json.dumps({**broken, **quarantined}))
            for group in order:
                with h5py.File(found[group]) as source:
                    source.copy(group, file, group)
        os.replace(fresh, self.out)
        shutil.rmtree(self.folder)

    def _quarantined(self) -> dict[str, str]:
        """What earlier calls could not read."""
        if not self.out.exists():
            return {}
        with h5py.File(self.out) as file:
            return json.loads(str(file.attrs["quarantined"]))
