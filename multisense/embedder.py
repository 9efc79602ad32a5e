"""Embeddings for scikit-learn: logs in, one row per log or per window out."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Self, cast

import numpy as np
import torch
from sklearn.base import BaseEstimator, TransformerMixin

from multisense.checkpoint import warn_if_unfinished
from multisense.embed import log_arrays, weights_fingerprint
from multisense.logs import open_log, open_logs
from multisense.logs.base import LogError, SensorLog
from multisense.model import MultiSense
from multisense.run import Run, check_sensors, holds_run, open_run

Source = MultiSense | Run | str | Path
"""A model, a run, the folder of a run or of a published model, or OWNER/NAME on the Hub."""
Logs = str | Path | Sequence[SensorLog | str | Path]
"""A path of logs of any format, or a list of logs or of paths of one log each."""


def open_model(source: Source) -> MultiSense:
    """The encoder of a run or of a published model, in evaluation mode, on the GPU where there is one.

    A folder with a `run.json` is a run, one's own (see `open_run`); for any other nothing is imported. One that was given
    as a model stays where it is. Raises ConfigError where there is none.
    """
    if isinstance(source, (MultiSense, Run)):
        return source if isinstance(source, MultiSense) else source.model
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if not holds_run(Path(source)):
        return MultiSense.from_pretrained(source).to(device)
    run = open_run(source, device)
    warn_if_unfinished(run)
    return run.model


class MultiSenseEmbedder(TransformerMixin, BaseEstimator):
    """A transformer from logs to the fused embeddings that `multisense embed` writes. Fitting learns nothing.

    `rows="log"` gives one row per log, the mean over its windows, so that a `Pipeline` may end in an estimator with one
    target per log; `rows="window"` one per window, log after log. Windows start every `stride_s` seconds. `sensors` are
    those that are used, all by default; of the others the features are 0. A window in which none of them is there is a row
    of NaN, which estimators refuse or know as missing, and is no part of a log's mean.

    With `Pipeline(..., memory=folder)` logs that are given as paths are embedded once for each weights. Of such logs
    scikit-learn's cache knows only the path: where one is replaced by another of its name, empty the cache, or give logs.
    """

    def __init__(
        self,
        run: Source,
        *,
        rows: Literal["log", "window"] = "log",
        stride_s: float = 0.5,
        sensors: Sequence[str] | None = None,
        batch_size: int = 32,
    ):
        self.run = run
        self.rows = rows
        self.stride_s = stride_s
        self.sensors = sensors
        self.batch_size = batch_size

    def fit(self, logs: Logs | None = None, y: object = None) -> Self:
        """Load the weights. Raises ConfigError where there are none, ValueError for a setting that does not fit."""
        self._ready()
        return self

    def transform(self, logs: Logs) -> np.ndarray:
        """(logs or windows, F) float32. Raises LogError for a log that is not of the model's sensors, cannot be read or,
        with one row per log, is shorter than a clip or has none of the chosen sensors in any window."""
        model, opened = self._ready(), _opened(logs)
        check_sensors(model.sensors, model.grids, model.seconds, opened)
        rows = [self._rows(model, log) for log in opened]
        return np.concatenate(rows) if rows else np.zeros((0, self._features(model)), np.float32)

    def get_feature_names_out(self, input_features: object = None) -> np.ndarray:
        """<sensor>_mean_<i> and <sensor>_max_<i>: over the latents of the sensor's tokens."""
        model = self._ready()
        pools = [(name, pool) for name in model.names for pool in ("mean", "max")]
        return np.array([f"{n}_{pool}_{i}" for n, pool in pools for i in range(model.config.width)], dtype=object)

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        tags.input_tags.two_d_array = False
        return tags

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def __getstate__(self) -> dict:
        """Without the weights, which another process reads where they are, but with their fingerprint, so that the key of
        a cache is another where others were put in their place."""
        state = {name: value for name, value in cast(dict, super().__getstate__()).items() if name != "_model"}
        return {**state, "_weights": weights_fingerprint(self._ready())}

    def _ready(self) -> MultiSense:
        if self.rows not in ("log", "window"):
            raise ValueError(f"rows={self.rows!r}: expected 'log' or 'window'")
        if self.stride_s <= 0:
            raise ValueError(f"stride_s={self.stride_s}: expected a positive number of seconds")
        if getattr(self, "_model", (None, None))[0] is not self.run:
            self._model = self.run, open_model(self.run)
        model = self._model[1]
        if self.sensors is not None and not len(self.sensors):
            raise ValueError(f"sensors={self.sensors!r}: expected some of {list(model.names)}, or None for all")
        unknown = sorted(set(self.sensors or ()) - set(model.names))
        if unknown:
            raise ValueError(f"sensors: no {unknown} in the model; it was trained on {list(model.names)}")
        return model

    def _rows(self, model: MultiSense, log: SensorLog) -> np.ndarray:
        chosen = [name for name in model.names if self.sensors is None or name in self.sensors]
        arrays = log_arrays(model, log, self.stride_s, chosen, self.batch_size)
        fused = arrays.get("fused", np.zeros((0, self._features(model)), np.float32))
        if not len(fused):
            if self.rows == "window":
                return fused
            raise LogError(
                f"{log.path}: shorter than one clip of {model.seconds} s, so it has no embedding; leave it out"
            )
        is_there = np.any([arrays[f"valid/{name}"] for name in chosen], axis=0)
        if self.rows == "window":
            return np.where(is_there[:, None], fused, np.float32(np.nan))
        if not is_there.any():
            raise LogError(
                f"{log.path}: none of {chosen} is there in any of {len(fused)} windows, so it has no embedding; leave it out, "
                f"or choose among its sensors {list(log.sensors)}"
            )
        return fused[is_there].mean(0, keepdims=True)

    @staticmethod
    def _features(model: MultiSense) -> int:
        return 2 * model.config.width * len(model.names)


def _opened(logs: Logs) -> list[SensorLog]:
    if isinstance(logs, (str, Path)):
        return list(open_logs(logs))
    return [open_log(log) if isinstance(log, (str, Path)) else log for log in logs]
