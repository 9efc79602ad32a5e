"""`multisense view`: which log is shown, by which run, and what is said of it."""

from importlib.util import find_spec
from pathlib import Path

import torch

from multisense.checkpoint import warn_if_unfinished
from multisense.config import suggest
from multisense.logs.base import LogError, SensorLog, how_to_install
from multisense.logs.open import survey_logs
from multisense.run import Run, check_logs, open_run


def show(path: str, run: Path | None, name: str | None, save: Path | None, seed: int) -> str:
    """Show the log `name` of those at `path`, the first by default, in the Rerun viewer or in the file `save`.

    With the folder of a `run` also what it makes of the log's windows, one clip after the other. Returns what there is to
    say of it. Raises ImportError where Rerun is not installed, ValueError where there is no such log or it is not of the
    run's sensors or `save` does not end in .rrd, OSError where the file cannot be written or the viewer does not start.
    """
    if save is not None and save.suffix != ".rrd":  # before all else: it may be the name of a log
        raise ValueError(
            f"{save}: expected a name that ends in .rrd, what Rerun calls its recordings; nothing was written"
        )
    if find_spec("rerun") is None:
        raise ImportError(f"viewing needs Rerun (rerun-sdk), which is not installed. {how_to_install('rerun')}")
    from multisense.view.recording import record

    log, said = choose_log(path, name)
    opened = None if run is None else _opened(run, log)
    windows = record(log, opened, save, seed)
    if opened is not None:
        seconds = opened.config.data.clip_seconds
        said.append(
            f"{windows} windows of {seconds:g} s of {opened.path}, masks of seed {seed}"
            if windows
            else f"{log.name} is shorter than a clip of {opened.path} ({seconds:g} s): its streams alone are shown"
        )
    said.append(f"{save}; now: rerun {save}" if save else f"{log.name} is in the viewer")
    return "\n".join(said)


def choose_log(path: str, name: str | None) -> tuple[SensorLog, list[str]]:
    """The log `name` at `path`, or the first that opens; and, of several, a sentence that says which.

    Raises LogError where there is no such log, or it cannot be read.
    """
    logs, broken = survey_logs(path)
    if name in broken or not logs:
        raise broken[name] if name in broken else next(iter(broken.values()))
    if name is None:
        others = [] if len(logs) == 1 else [f"{logs[0].name}: the first of {len(logs)} logs; --log NAME shows another"]
        return logs[0], others
    for log in logs:
        if log.name == name:
            return log, []
    raise LogError(f"{path}: no log '{name}' among {len(logs)}; {suggest(name, (log.name for log in logs))}")


def _opened(path: Path, log: SensorLog) -> Run:
    run = open_run(path, "cuda" if torch.cuda.is_available() else "cpu")
    warn_if_unfinished(run)
    check_logs(run.config, run.grids, [log])
    return run
