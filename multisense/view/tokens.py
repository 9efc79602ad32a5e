"""Which tokens of every window the student of a run would be shown, and which it would have to name."""

import numpy as np
import rerun as rr
from einops import rearrange, repeat

from multisense.masking import Mask, draw_masks
from multisense.modalities.base import PatchTokenizer
from multisense.run import Run
from multisense.types import Batch, TokenLayout
from multisense.view.send import classes, path, pictures

ABSENT, KEPT, HIDDEN = 0, 1, 2
"""What a token is in one window: no real data, seen by the student, to be predicted."""
NAMES = ("absent", "kept", "hidden")
ON_FRAMES = ((220, 60, 60, 255), (0, 0, 0, 0), (20, 20, 30, 255))
IN_RASTERS = ((220, 60, 60, 255), (90, 200, 170, 255), (45, 48, 60, 255))
WIDE = 6
"""A raster is about so many times as wide as it is high: one row of ten steps would else be a thread."""


def window_mask(run: Run, window: int, seed: int) -> Mask:
    """The mask of one window, drawn from the run's own mixture: a pure function of (seed, number of the window)."""
    masks = run.config.objective.masks.model_copy(update={"masks_per_clip": 1, "alone": []})
    layout = run.model.layout
    on_host = TokenLayout(layout.time_s.cpu(), layout.place.cpu(), layout.sensor.cpu(), layout.names)
    return draw_masks(on_host, masks, seed, step=window, items=[window])[0]


def token_states(mask: Mask, valid: np.ndarray) -> np.ndarray:
    """(T,) uint8: ABSENT, KEPT or HIDDEN, of a mask of one clip and its tokens' validity (T,)."""
    states = np.full(len(valid), HIDDEN, np.uint8)
    states[mask.keep[0].numpy()] = KEPT
    states[~valid] = ABSENT
    return states


def send_tokens(rec: rr.RecordingStream, run: Run, batch: Batch, first: int, seed: int) -> None:
    """The masks of the windows in `batch`, of which the first is window `first` of its log.

    tokens/<camera>/frame    the frames at the size in which the model sees them, at the times of its grid
    tokens/<camera>/mask     class of the patch each pixel belongs to, at the beginning of each token's time
    tokens/<sensor>/raster   of all others, at a window's start: time to the right, place or low to high tones upwards

    A viewer shows the last of each until the next begins, so also after the last window.
    """
    valid = run.model.token_valid(batch).cpu().numpy()
    sensor = run.model.sensor.cpu().numpy()
    for row, start in enumerate(batch.starts_s):
        states = token_states(window_mask(run, first + row, seed), valid[row])
        for s, name in enumerate(run.model.names):
            tokenizer = run.model.tokenizer(name)
            own = states[sensor == s]
            if is_camera(tokenizer):
                there = batch.valid[name][row].cpu().numpy()
                frames = batch.values[name][row].cpu().numpy()[there]
                times = start + np.flatnonzero(there) / tokenizer.grid.rate_hz
                pictures(rec, path("tokens", name, "frame"), times, frames)
                classes(rec, path("tokens", name, "mask"), *overlay(tokenizer, own, start))
            else:
                classes(rec, path("tokens", name, "raster"), np.array([start]), raster(tokenizer, own)[None])


def is_camera(tokenizer: PatchTokenizer) -> bool:
    """Whether a sensor's tokens are patches of frames."""
    return tokenizer.grid.dtype == "uint8" and tokenizer.grid.resample == "nearest"


def overlay(tokenizer: PatchTokenizer, states: np.ndarray, start_s: float) -> tuple[np.ndarray, np.ndarray]:
    """States (T,) of a camera's tokens -> the times (n,) from which they hold, and the state of every pixel (n, H, W)."""
    n, h, w = tokenizer.lattice
    _, p, q = tokenizer.patch
    pixels = repeat(states, "(n h w) -> n (h p) (w q)", n=n, h=h, w=w, p=p, q=q)
    return start_s + np.arange(n) * tokenizer.token_seconds(), pixels


def raster(tokenizer: PatchTokenizer, states: np.ndarray) -> np.ndarray:
    """States (T,) of any other sensor's tokens -> (R, n): a column a step of time, the last place on top."""
    n, h, w = tokenizer.lattice
    rows = rearrange(states, "(n h w) -> (h w) n", n=n, h=h, w=w)[::-1]
    return rows.repeat(max(round(n / (WIDE * h * w)), 1), axis=0)


def name_states(rec: rr.RecordingStream, run: Run) -> None:
    """Names and colours of the states; on frames what is kept is seen through."""
    for name in run.model.names:
        on_frames = is_camera(run.model.tokenizer(name))
        colours = ON_FRAMES if on_frames else IN_RASTERS
        context = rr.AnnotationContext([(i, NAMES[i], colours[i]) for i in range(len(NAMES))])
        rec.log(path("tokens", name), context, static=True)
        if on_frames:
            rec.log(path("tokens", name, "mask"), rr.SegmentationImage.from_fields(opacity=0.75), static=True)
