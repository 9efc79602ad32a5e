"""Arrays -> one entity of a Rerun recording, in columns. N rows, each at its time on the log's clock."""

import io
from collections.abc import Sequence

import numpy as np
import rerun as rr
from matplotlib import colormaps
from PIL import Image

CLOCK = "sensor_clock"
"""The timeline: seconds of the log's clock, in nanoseconds. Nothing is on the timelines of when it was sent."""
JPEG_QUALITY = 80
COLOURS = (colormaps["tab10"](range(10))[:, :3] * 255).astype(np.uint8)


def path(*parts: str) -> str:
    """An entity's path; a part may hold anything, such as the slashes of a ROS topic."""
    return rr.new_entity_path(list(parts))


def clock(times_s: np.ndarray) -> list[rr.TimeColumn]:
    """(N,) seconds. Rounded: Rerun itself cuts, and the frame of 0.3 s would be there at 0.299999999 s."""
    return [rr.TimeColumn(CLOCK, duration=np.round(np.asarray(times_s) * 1e9).astype("timedelta64[ns]"))]


def name_series(rec: rr.RecordingStream, where: str, names: Sequence[str], first: int = 0, steps: bool = False) -> None:
    """The names of an entity's columns of numbers, coloured from colour `first` on; `steps`: held until the next."""
    colours = COLOURS[(first + np.arange(len(names))) % len(COLOURS)]
    how = rr.components.InterpolationMode.StepAfter if steps else rr.components.InterpolationMode.Linear
    rec.log(where, rr.SeriesLines(names=list(names), colors=colours, interpolation_mode=how), static=True)


def numbers(rec: rr.RecordingStream, where: str, times_s: np.ndarray, values: np.ndarray) -> None:
    """(N, C) numbers, or (N,)."""
    if len(times_s):
        rows = np.asarray(values, np.float64).reshape(len(times_s), -1)
        rec.send_columns(where, clock(times_s), rr.Scalars.columns(scalars=rows))


def pictures(rec: rr.RecordingStream, where: str, times_s: np.ndarray, frames: np.ndarray) -> None:
    """(N, H, W, C) uint8, as JPEG; of more than three channels the first three, of two the first."""
    if len(times_s):
        blobs = [jpeg(frame) for frame in frames]
        columns = rr.EncodedImage.columns(blob=blobs, media_type=["image/jpeg"] * len(blobs))
        rec.send_columns(where, clock(times_s), columns)


def jpeg(frame: np.ndarray) -> bytes:
    """(H, W, C) uint8"""
    shown = frame[..., :3] if frame.shape[-1] >= 3 else frame[..., 0]
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(shown)).save(buffer, format="JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()


def heat(rec: rr.RecordingStream, where: str, times_s: np.ndarray, maps: np.ndarray) -> None:
    """(N, H, W) numbers, as depth images: of Rerun's images only they keep numbers under colours of a fixed range."""
    if len(times_s):
        maps = np.ascontiguousarray(maps, np.float32)
        form = rr.components.ImageFormat(
            width=maps.shape[2], height=maps.shape[1], channel_datatype=rr.ChannelDatatype.F32
        )
        buffers = [one.tobytes() for one in maps]
        rec.send_columns(where, clock(times_s), rr.DepthImage.columns(buffer=buffers, format=[form] * len(maps)))


def heat_range(rec: rr.RecordingStream, where: str, low: float, high: float) -> None:
    """Between which numbers the colours of an entity's heat maps lie, at all times."""
    span = [low, high if high > low else low + 1]
    rec.log(where, rr.DepthImage.from_fields(depth_range=span, colormap=rr.components.Colormap.Viridis), static=True)


def classes(rec: rr.RecordingStream, where: str, times_s: np.ndarray, maps: np.ndarray) -> None:
    """(N, H, W) uint8 class of every pixel."""
    if len(times_s):
        form = rr.components.ImageFormat(
            width=maps.shape[2], height=maps.shape[1], channel_datatype=rr.ChannelDatatype.U8
        )
        buffers = [np.ascontiguousarray(one, np.uint8).tobytes() for one in maps]
        columns = rr.SegmentationImage.columns(buffer=buffers, format=[form] * len(maps))
        rec.send_columns(where, clock(times_s), columns)
