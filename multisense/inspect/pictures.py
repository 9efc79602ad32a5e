"""Inline SVG for the report: no network, no script, colours from the page's own style so that light and dark both work.

Every function returns a string of SVG. Text and lines use CSS variables: --ink, --faint, --grid and --c0 ... --c7.
"""

import base64
import io
import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, Literal

import numpy as np
from matplotlib import colormaps
from matplotlib.image import imsave

from multisense.logs.base import SensorLog
from multisense.types import SensorInfo, Stream

WIDTH, LEFT, RIGHT = 960, 108, 12
COLOURS = 8
SOUND_HZ = 2000.0
"""From which rate on numbers of unknown kind are drawn as sound."""
GEL_PIXELS = 16
"""A gel camera has at least so many rows and columns; a grid of taxels has fewer, also where it counts in bytes."""
Drawn = Literal["frames", "taxels", "sound", "traces"]


def svg(height: float, body: Sequence[str], title: str, width: float = WIDTH) -> str:
    return (
        f'<svg viewBox="0 0 {width} {height:.0f}" role="img" aria-label="{escape(title, quote=True)}">'
        f"<title>{escape(title)}</title>{''.join(body)}</svg>"
    )


def words_at(x: float, y: float, words: str, anchor: str = "start", style: str = "", size: int = 12) -> str:
    look = f'text-anchor="{anchor}" class="{style}" font-size="{size}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {look}>{escape(words)}</text>'


def polyline(points: np.ndarray, colour: str, title: str = "") -> str:
    """points (N, 2) in pixels"""
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    name = f"<title>{escape(title)}</title>" if title else ""
    return f'<polyline points="{path}" fill="none" style="stroke:{colour}" stroke-width="1.5">{name}</polyline>'


def _image(pixels: np.ndarray, x: float, y: float, width: float, height: float) -> str:
    """pixels (H, W, 3) uint8"""
    buffer = io.BytesIO()
    imsave(buffer, np.ascontiguousarray(pixels), format="png")
    data = base64.b64encode(buffer.getvalue()).decode()
    return (
        f'<image x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" preserveAspectRatio="none" '
        f'style="image-rendering:auto" href="data:image/png;base64,{data}"/>'
    )


def heat(values: np.ndarray, x: float, y: float, width: float, height: float, cmap: str) -> str:
    low, high = np.percentile(values, [1, 99.5])
    scaled = np.clip((values - low) / max(high - low, 1e-12), 0, 1)
    return _image((colormaps[cmap](scaled)[..., :3] * 255).astype(np.uint8), x, y, width, height)


Spans = Sequence[tuple[float, float, str]]
"""(start_s, stop_s, what is there)"""


def recording(
    log: SensorLog,
    sensors: Sequence[str],
    seconds: float = 8.0,
    mark: str = "contact",
    faults: Mapping[str, Spans] | None = None,
    start_s: float | None = None,
) -> str:
    """Some seconds of a log, from its start unless told: every sensor drawn on one time axis, the spans of the class
    label `mark` shaded, and `faults` by sensor outlined on that sensor's row."""
    infos = [log.sensors[name] for name in sensors if name in log.sensors]
    start, stop = shown_span(infos, seconds, start_s)
    rows: list[str] = []
    y = 22.0
    for info in infos:
        stream = read_drawn(log, info, (start, stop))
        height = _row_height(info, stop - start)
        rows += [
            words_at(0, y + 14, info.name, style="strong"),
            words_at(0, y + 30, f"{info.rate_hz:g} Hz", style="faint"),
        ]
        rows += _row(info, stream, (start, stop), y, height)
        rows += _faults((faults or {}).get(info.name, ()), (start, stop), y, height)
        y += height + 12
    plot = WIDTH - LEFT - RIGHT
    shade = [
        f'<rect class="mark" x="{LEFT + plot * (a - start) / (stop - start):.1f}" y="16" '
        f'width="{max(plot * (b - a) / (stop - start), 1.5):.1f}" height="{y - 22:.1f}"/>'
        for a, b in _marked(log, mark, start, stop)
    ]
    legend = [words_at(LEFT, 11, f"shaded: {mark}", style="faint")] if shade else []
    return svg(y + 24, [*rows, *shade, *legend, *_time_axis(start, stop, y + 2)], f"{log.name}: {stop - start:.1f} s")


def shown_span(infos: Sequence[SensorInfo], seconds: float, start_s: float | None = None) -> tuple[float, float]:
    """What `recording` draws: from `start_s`, or from where the first of the sensors begins."""
    start = min(i.start_s for i in infos) if start_s is None else start_s
    return start, min(max(i.stop_s for i in infos), start + seconds)


def _faults(spans: Spans, span: tuple[float, float], y: float, height: float) -> list[str]:
    scale = (WIDTH - LEFT - RIGHT) / (span[1] - span[0])
    drawn = []
    for begin, end, what in spans:
        a, b = max(begin, span[0]), min(end, span[1])
        if a <= b:
            box = f'x="{LEFT + (a - span[0]) * scale:.1f}" width="{max((b - a) * scale, 3):.1f}"'
            drawn.append(
                f'<rect class="fault" {box} y="{y:.1f}" height="{height:.1f}"><title>{escape(what)}</title></rect>'
            )
    return drawn


def _time_axis(start: float, stop: float, y: float) -> list[str]:
    plot, span = WIDTH - LEFT - RIGHT, stop - start
    step = next(s for s in (0.1, 0.2, 0.5, 1, 2, 5, 10, 60, math.inf) if span / s <= 10)
    at = np.arange(0, span + 1e-9, step)
    marks = [words_at(LEFT + plot * t / span, y + 14, f"{t:g}", "middle", "faint") for t in at]
    return [*marks, words_at(0, y + 14, "time (s)", style="faint")]


def _marked(log: SensorLog, mark: str, start: float, stop: float) -> list[tuple[float, float]]:
    """Spans of [start, stop) in which the class label is 1 or more."""
    label = log.labels.get(mark)
    if label is None or label.times_s is None or label.data.ndim != 1 or not label.is_class:
        return []
    on = np.concatenate([[0], (label.data > 0).astype(int), [0]])
    edges = np.flatnonzero(np.diff(on)).reshape(-1, 2)
    times = np.append(label.times_s, label.times_s[-1])
    spans = [(max(float(times[a]), start), min(float(times[b]), stop)) for a, b in edges]
    return [(a, b) for a, b in spans if b >= a and a < stop]


def drawn_as(info: SensorInfo) -> Drawn:
    """How to draw a sensor: as its modality is, and where that leaves it open, as its samples are."""
    if info.modality in ("audio", "proprio"):
        return "sound" if info.modality == "audio" else "traces"
    if len(info.shape) < 2:
        return "sound" if not info.modality and info.rate_hz >= SOUND_HZ else "traces"
    is_picture = info.dtype == "uint8" and len(info.shape) == 3 and info.shape[2] in (1, 3, 4)
    is_skin = info.modality == "touch" and min(info.shape[:2]) < GEL_PIXELS
    return "frames" if is_picture and not is_skin else "taxels"


def _row_height(info: SensorInfo, seconds: float) -> float:
    if drawn_as(info) == "frames":
        return (WIDTH - LEFT - RIGHT) / _shown(info, seconds) * info.shape[0] / info.shape[1]
    return {"sound": 90.0, "taxels": 90.0, "traces": 110.0}[drawn_as(info)]


def _shown(info: SensorInfo, seconds: float) -> int:
    return min(10, max(int(seconds * info.rate_hz), 1))


def read_drawn(log: SensorLog, info: SensorInfo, span: tuple[float, float], count: int | None = None) -> Stream:
    """What is drawn of a sensor: all of a span, or of pictures only the `count` nearest to the times shown."""
    if drawn_as(info) != "frames":
        return log.read(info.name, *span)
    period = 1 / info.rate_hz
    near = [(log.read(info.name, at - period, at + period), at) for at in _shown_at(info, span, count)]
    kept = [(s, int(np.abs(s.times_s - at).argmin())) for s, at in near if len(s.times_s)]
    times, frames = np.array([s.times_s[n] for s, n in kept]), [s.data[n] for s, n in kept]
    return Stream(info.name, times, np.stack(frames) if frames else np.empty((0, *info.shape)), info.rate_hz)


def _shown_at(info: SensorInfo, span: tuple[float, float], count: int | None = None) -> np.ndarray:
    count = count or _shown(info, span[1] - span[0])
    return span[0] + (np.arange(count) + 0.5) * (span[1] - span[0]) / count


def _row(info: SensorInfo, stream: Stream, span: tuple[float, float], y: float, height: float) -> list[str]:
    if len(stream.data) == 0:
        return [words_at(LEFT, y + 20, "nothing recorded in this span", style="faint")]
    draw = {"frames": _frames, "sound": _spectrogram, "taxels": _taxels, "traces": _traces}[drawn_as(info)]
    return draw(info, stream, span, y, height)


def _frames(info: SensorInfo, stream: Stream, span: tuple[float, float], y: float, height: float) -> list[str]:
    """A thumbnail for every time shown; none where no picture was taken about then."""
    wanted = _shown_at(info, span)
    width = (WIDTH - LEFT - RIGHT) / len(wanted)
    near = np.abs(stream.times_s[None] - wanted[:, None]).argmin(axis=1)
    skip = max(1, info.shape[0] // 128)  # so that the page stays small
    return [
        _image(in_colour(stream.data[n][::skip, ::skip]), LEFT + i * width + 1, y, width - 2, height)
        for i, n in enumerate(near)
        if abs(stream.times_s[n] - wanted[i]) <= 1 / info.rate_hz
    ]


def in_colour(frames: np.ndarray) -> np.ndarray:
    """Frames (..., 1, 3 or 4) as (..., 3): grey is the same in all three, what is transparent is not."""
    return np.repeat(frames, 3, axis=-1) if frames.shape[-1] == 1 else frames[..., :3]


def _spectrogram(info: SensorInfo, stream: Stream, span: tuple[float, float], y: float, height: float) -> list[str]:
    level = loudness(stream)
    level = np.maximum(level, level.max() - 70)
    top = f"{info.rate_hz / 2000:g} kHz"
    return [
        heat(level.T[::-1], *_extent(stream, span), y, *_size(stream, span, height), "magma"),
        words_at(LEFT - 6, y + 10, top, "end", "faint", 10),
        words_at(LEFT - 6, y + height, "0", "end", "faint", 10),
    ]


def loudness(stream: Stream, columns: int = 400) -> np.ndarray:
    """(columns, F) spectrum of a sound over time, in dB."""
    sound = np.nan_to_num(stream.data.reshape(len(stream.data), -1).astype(np.float64)).mean(axis=1)
    size = min(512, len(sound))
    starts = np.linspace(0, len(sound) - size, columns).astype(int)
    frames = np.stack([sound[s : s + size] for s in starts]) * np.hanning(size)
    return 10 * np.log10(np.abs(np.fft.rfft(frames, axis=1)) ** 2 + 1e-12)


def strength(stream: Stream, columns: int = 400) -> np.ndarray:
    """(up to columns, taxels): the strongest each taxel feels in each stretch of time."""
    felt = np.abs(taxels(np.nan_to_num(stream.data.astype(np.float64)))).reshape(len(stream.data), -1)
    bins = np.linspace(0, len(felt), min(columns, len(felt)) + 1).astype(int)[:-1]
    return np.maximum.reduceat(felt, bins, axis=0)


def taxels(data: np.ndarray) -> np.ndarray:
    """Samples (N, H, W) as they are, (N, ..., W, C) as the lengths of their vectors (N, H, W)."""
    data = np.asarray(data, np.float64)
    data = data if data.ndim == 3 else np.linalg.norm(data, axis=-1)
    return data.reshape(len(data), -1, data.shape[-1])


def _extent(stream: Stream, span: tuple[float, float]) -> tuple[float]:
    return (LEFT + (WIDTH - LEFT - RIGHT) * (stream.times_s[0] - span[0]) / (span[1] - span[0]),)


def _size(stream: Stream, span: tuple[float, float], height: float) -> tuple[float, float]:
    seconds = stream.times_s[-1] - stream.times_s[0]
    return max((WIDTH - LEFT - RIGHT) * seconds / (span[1] - span[0]), 1), height


def _taxels(info: SensorInfo, stream: Stream, span: tuple[float, float], y: float, height: float) -> list[str]:
    """Strength of every taxel over time, one line each."""
    binned = strength(stream)
    rows = f"{info.shape[0]}x{info.shape[1]} taxels"
    return [
        heat(np.sqrt(binned.T), *_extent(stream, span), y, *_size(stream, span, height), "viridis"),
        words_at(0, y + 46, rows, style="faint"),
    ]


def _traces(info: SensorInfo, stream: Stream, span: tuple[float, float], y: float, height: float) -> list[str]:
    """Every channel, each on its own scale."""
    data = stream.data.reshape(len(stream.data), -1).astype(np.float64)
    keep = np.unique(np.linspace(0, len(data) - 1, min(400, len(data))).astype(int))
    count, names = data.shape[1], info.channels
    names = names if len(names) == count else [f"channel {i}" for i in range(count)]
    data, times = data[keep][:, :12], stream.times_s[keep]
    data = np.where(np.isfinite(data), data, np.nan)
    low, high = np.fmin.reduce(data), np.fmax.reduce(data)  # NaN where a channel holds no number
    scaled = np.nan_to_num((data - low) / np.where(high > low, high - low, 1), nan=0.5)
    x = LEFT + (WIDTH - LEFT - RIGHT) * (times - span[0]) / (span[1] - span[0])
    return [
        *(
            polyline(np.stack([x, y + height * (1 - channel)], axis=1), f"var(--c{i % COLOURS})", names[i])
            for i, channel in enumerate(scaled.T)
        ),
        words_at(0, y + 46, f"{count} channel{'s' * (count != 1)}", style="faint"),
        words_at(0, y + 60, "own scale each", style="faint", size=10),
    ]


def curves(title: str, series: Mapping[str, tuple[np.ndarray, np.ndarray]], width: int = 440, height: int = 220) -> str:
    """Lines over training steps: {name: (steps (N,), values (N,))}."""
    left, right, top, bottom = 44, 10, 26, 44
    values = np.concatenate([v for _, v in series.values()])
    steps = np.concatenate([s for s, _ in series.values()])
    low, high = min(float(values.min()), 0.0), float(values.max())
    high = high if high > low else low + 1
    last = max(float(steps.max()), 1.0)

    def at(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        across = left + (width - left - right) * np.asarray(x) / last
        return np.stack([across, top + (height - top - bottom) * (high - np.asarray(y)) / (high - low)], axis=-1)

    body = [words_at(left, 14, title, style="strong", size=13)]
    for tick in ticks(low, high):
        y = float(at(np.zeros(()), np.array(tick))[1])
        body += [f'<line class="grid" x1="{left}" x2="{width - right}" y1="{y:.1f}" y2="{y:.1f}"/>']
        body += [words_at(left - 5, y + 4, f"{tick:g}", "end", "faint", 10)]
    for tick in ticks(0, last, 4):
        body += [
            words_at(
                float(at(np.array(tick), np.zeros(()))[0]), height - bottom + 14, f"{tick:g}", "middle", "faint", 10
            )
        ]
    for i, (name, (x, y)) in enumerate(series.items()):
        colour = f"var(--c{i % COLOURS})"
        body.append(polyline(at(x, y), colour, name))
        if len(series) > 1:
            x0 = left + i * (width - left) / len(series)
            body.append(f'<rect x="{x0:.0f}" y="{height - 16}" width="10" height="10" style="fill:{colour}"/>')
            body.append(words_at(x0 + 14, height - 7, name, size=11))
    return svg(height, body, title, width)


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    raw = (high - low) / count
    step = next(
        m * 10.0 ** math.floor(math.log10(raw)) for m in (1, 2, 5, 10) if m * 10.0 ** math.floor(math.log10(raw)) >= raw
    )
    return [float(round(t, 10)) for t in np.arange(math.ceil(low / step), math.floor(high / step) + 1) * step]


def intervals(rows: Mapping[str, tuple[Mapping[str, Any], str]], title: str) -> str:
    """A dot with its whiskers a row: {name: ({"mean", "low", "high"}, colour)}."""
    left, right, line, width = 150, 60, 26, 640
    low = min(0.0, *(cell["low"] or cell["mean"] for cell, _ in rows.values()))
    high = max(cell["high"] or cell["mean"] for cell, _ in rows.values()) * 1.05 or 1.0
    scale = (width - left - right) / (high - low)
    height = line * len(rows) + 30
    body = []
    for tick in ticks(low, high):
        x = left + (tick - low) * scale
        body.append(f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="4" y2="{height - 24}"/>')
        body.append(words_at(x, height - 8, f"{tick:g}", "middle", "faint", 11))
    for i, (name, (cell, colour)) in enumerate(rows.items()):
        y = line * i + 18
        x, a, b = (
            left + ((cell[k] if cell[k] is not None else cell["mean"]) - low) * scale for k in ("mean", "low", "high")
        )
        body.append(words_at(left - 10, y + 4, name, "end", "strong" if i == 0 else "", 13))
        body.append(f'<line x1="{a:.1f}" x2="{b:.1f}" y1="{y}" y2="{y}" style="stroke:{colour}" stroke-width="3"/>')
        body.append(f'<circle cx="{x:.1f}" cy="{y}" r="5" style="fill:{colour}"/>')
        body.append(words_at(b + 8, y + 4, f"{cell['mean']:.2f}", size=12))
    return svg(height, body, title, width)
