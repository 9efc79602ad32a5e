"""A whole recording: a log, what a run makes of it, and the layout, sent to a viewer or into a file."""

import os
import shutil
import sys
from pathlib import Path

import numpy as np
import rerun as rr

from multisense.clips import Rolling, Windows
from multisense.embed import ahead, batches
from multisense.logs.base import SensorLog
from multisense.model import Embedding
from multisense.run import Run
from multisense.view.latents import name_errors, send_embedding, send_errors
from multisense.view.layout import blueprint
from multisense.view.streams import send_streams
from multisense.view.tokens import name_states, send_tokens


def record(log: SensorLog, run: Run | None, save: Path | None, seed: int) -> int:
    """Write the file `save`, or open a viewer where it is None. Returns how many windows of the log the run saw.

    Raises OSError where the file cannot be written or the viewer does not start.
    """
    rr.set_strict_mode(True)  # Rerun would else warn, and leave out what it was given wrongly
    windows = (
        None if run is None else Windows([Rolling(log, run.grids)], run.grids, *[run.config.data.clip_seconds] * 2)
    )
    rec = rr.RecordingStream("multisense")
    layout = blueprint(log, run if windows else None)
    try:
        if save is None:
            rr.spawn(executable_path=_viewer(), default_blueprint=layout, recording=rec)
        else:
            rec.save(save, default_blueprint=layout)
    except RuntimeError as error:
        raise OSError(f"{save or 'the Rerun viewer'}: {error}") from error
    rec.send_recording_name(log.name)
    send_streams(rec, log)
    if run is not None and windows:
        send_run(rec, run, windows, seed)
    rec.flush()
    rec.disconnect()
    return len(windows or ())


def _viewer() -> str | None:
    """The viewer beside this Python, whose environment need not be activated."""
    return shutil.which("rerun", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))


def send_run(rec: rr.RecordingStream, run: Run, windows: Windows, seed: int) -> None:
    """Tokens, errors and embedding of windows that follow one another."""
    names = run.model.names
    name_states(rec, run)
    name_errors(rec, names)
    embeddings: list[Embedding] = []
    starts: list[float] = []
    for batch in ahead(batches(windows, 8)):
        batch = batch.to(run.model.time_s.device)
        send_tokens(rec, run, batch, len(starts), seed)
        send_errors(rec, run.objective, batch)
        embeddings.append(run.model.embed(batch))
        starts += batch.starts_s
    send_embedding(rec, np.array(starts), embeddings)
