"""A clip as a small picture: a row for each sensor, one scale for all clips, so that they can be compared."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps
from PIL import Image, ImageDraw

from multisense.inspect.pictures import drawn_as, in_colour, loudness, read_drawn, strength
from multisense.logs.base import SensorLog
from multisense.types import SensorInfo, Stream

GROUND, QUALITY = (18, 22, 28), 72
INKS = ((98, 174, 240), (242, 146, 74), (82, 199, 149), (220, 138, 194), (227, 187, 78), (143, 211, 238))
SENSORS = 6
"""At most so many rows."""
Window = tuple[SensorLog, float]
"""A log and the second at which the clip begins."""


@dataclass(frozen=True)
class Size:
    """Of one sensor's row, in pixels."""

    width: int = 160
    height: int = 48


def pictures(windows: Sequence[Window], sensors: Sequence[str], seconds: float, size: Size) -> list[str]:
    """A JPEG, as base64, of each window: the first SENSORS of `sensors`, one below the other; dark where one is absent."""
    names = list(sensors)[:SENSORS]
    looks = [{name: _look(log, name, (start, start + seconds), size) for name in names} for log, start in windows]
    drawn = {name: _drawn([look[name] for look in looks], size) for name in names}
    return [_jpeg(np.concatenate([drawn[name][i] for name in names])) for i in range(len(windows))]


@dataclass(frozen=True)
class _Look:
    kind: str
    values: np.ndarray
    """Frames (H, W, 3) in a strip; sound (time, frequency) in dB; taxels (time, taxel); traces (time, channel)."""


def _look(log: SensorLog, name: str, span: tuple[float, float], size: Size) -> _Look | None:
    info = log.sensors.get(name)
    if info is None:
        return None
    stream = read_drawn(log, info, span, _frames_across(info, size))
    if not len(stream.data):
        return None
    kind = drawn_as(info)
    return _Look(kind, _strip(stream, size) if kind == "frames" else _values(kind, stream, size))


def _frames_across(info: SensorInfo, size: Size) -> int:
    if drawn_as(info) != "frames":
        return 1
    return max(1, round(size.width * info.shape[0] / (size.height * info.shape[1])))


def _values(kind: str, stream: Stream, size: Size) -> np.ndarray:
    if kind == "sound":
        return loudness(stream, size.width)
    if kind == "taxels":
        return np.sqrt(strength(stream, size.width))
    rows = stream.data.reshape(len(stream.data), -1)[:, : len(INKS)].astype(np.float64)
    return rows[np.linspace(0, len(rows) - 1, size.width).round().astype(int)]


def _strip(stream: Stream, size: Size) -> np.ndarray:
    """Frames side by side, as they follow each other."""
    strip = Image.new("RGB", (size.width, size.height), GROUND)
    for i, frame in enumerate(stream.data):
        edges = [round(size.width * k / len(stream.data)) for k in (i, i + 1)]
        picture = Image.fromarray(np.ascontiguousarray(in_colour(frame)))
        strip.paste(
            picture.resize((max(edges[1] - edges[0] - 1, 1), size.height), Image.Resampling.BILINEAR), (edges[0], 0)
        )
    return np.asarray(strip)


def _drawn(looks: Sequence[_Look | None], size: Size) -> list[np.ndarray]:
    """Every clip's row of one sensor (height, width, 3), on the scale of all of them."""
    empty = np.full((size.height, size.width, 3), GROUND, np.uint8)
    there = [look for look in looks if look is not None]
    if not there or there[0].kind == "frames":
        return [empty if look is None else look.values for look in looks]
    axis, floor = (0, 0.3) if there[0].kind == "traces" else (None, 50)  # of a picture half is noise
    values = np.concatenate([look.values.reshape(-1, look.values.shape[-1]) for look in there])
    low, high = np.nanpercentile(values, [floor, 99.7], axis=axis)
    scaled = [None if look is None else (look.values - low) / np.maximum(high - low, 1e-12) for look in looks]
    return [empty if x is None else _row(there[0].kind, x, size) for x in scaled]


def _row(kind: str, scaled: np.ndarray, size: Size) -> np.ndarray:
    if kind == "traces":
        return _lines(np.nan_to_num(scaled, nan=0.5).clip(0, 1), size)
    upright = scaled.T[::-1] if kind == "sound" else scaled.T
    colours = colormaps["magma" if kind == "sound" else "viridis"](upright.clip(0, 1))[..., :3]
    picture = Image.fromarray((colours * 255).astype(np.uint8))
    return np.asarray(picture.resize((size.width, size.height), Image.Resampling.BOX))


def _lines(scaled: np.ndarray, size: Size) -> np.ndarray:
    """Channels (time, C) in [0, 1] as lines, smoothed by drawing them twice as large."""
    canvas = Image.new("RGB", (2 * size.width, 2 * size.height), GROUND)
    pen = ImageDraw.Draw(canvas)
    x = np.linspace(0, 2 * size.width - 1, len(scaled))
    for channel, ink in zip(scaled.T, INKS, strict=False):
        y = (2 * size.height - 7) * (1 - channel) + 3
        pen.line(list(zip(x.tolist(), y.tolist(), strict=True)), fill=ink, width=3)
    return np.asarray(canvas.resize((size.width, size.height), Image.Resampling.LANCZOS))


def _jpeg(pixels: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=QUALITY, optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def figure(picture: str, sensors: Sequence[str], title: str, alt: str, strong: str = "", over: str = "") -> str:
    """A clip's picture with the name of each row beside it, one of them strong, and `over` laid on it; all is HTML."""
    names = "".join(f"<li{' class=strong' if name == strong else ''}>{name}</li>" for name in list(sensors)[:SENSORS])
    image = f"<img src='data:image/jpeg;base64,{picture}' alt='{alt}'>" if picture else "<img alt='' hidden>"
    rows = f"<div class='rows'><ul>{names}</ul><div class='shown'>{image}{over}</div></div>"
    return f"<figure class='clip'><figcaption>{title}</figcaption>{rows}</figure>"
