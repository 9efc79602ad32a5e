"""What cameras saw and a microphone heard, as one small MP4 that a browser keeps in time by itself."""

import io
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import av
import numpy as np

from multisense.inspect.pictures import drawn_as, in_colour
from multisense.logs.base import SensorLog
from multisense.logs.frames import resize_frames
from multisense.types import SensorInfo, Stream

HEIGHT = 240
CLOCK = Fraction(1, 90_000)
SOUND_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
"""In Hz, those that AAC has; another one is resampled to the last."""
LOUD = 0.7


def film(log: SensorLog, sensors: Sequence[str], span: tuple[float, float]) -> bytes | None:
    """[start, stop) of every camera among `sensors`, side by side at most HEIGHT pixels high, and of the first sound.

    H.264 and AAC in MP4; second 0 is `start`, frames keep their own stamps. None where there is neither picture nor
    sound. Quiet sound is made louder: its peak is LOUD.
    """
    infos = [log.sensors[name] for name in sensors if name in log.sensors]
    cameras = [i for i in infos if drawn_as(i) == "frames"]
    seen = [stream for info in cameras if len((stream := _small(log, info, span)).data)]
    heard = [log.read(i.name, *span) for i in infos if drawn_as(i) == "sound"]
    heard = [stream for stream in heard if len(stream.data) > 1][:1]
    if not seen and not heard:
        return None
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        picture = _picture_track(container, seen) if seen else None
        sound = _sound_track(container, heard[0]) if heard else None
        if picture is not None:
            _write_pictures(container, picture, seen, span[0])
        if sound is not None:
            _write_sound(container, sound, heard[0], span[0])
    return file.getvalue()


def _small(log: SensorLog, info: SensorInfo, span: tuple[float, float]) -> Stream:
    """The frames of a camera in colour, at most HEIGHT high, a second read after the other: large ones never stand in
    memory together."""
    height = min(HEIGHT, info.shape[0])
    size = 2 * max(height // 2, 1), 2 * max(round(info.shape[1] * height / info.shape[0] / 2), 1)
    seconds = np.arange(*span)
    parts = [log.read(info.name, a, min(a + 1, span[1])) for a in seconds]
    frames = [in_colour(resize_frames(part.data, size)) for part in parts]
    return Stream(info.name, np.concatenate([part.times_s for part in parts]), np.concatenate(frames), info.rate_hz)


def _picture_track(container: Any, seen: Sequence[Stream]) -> Any:
    options = {"crf": "27", "preset": "veryfast", "threads": "1", "g": "30", "bf": "0"}
    track = container.add_stream("libx264", rate=round(seen[0].rate_hz) or 1, options=options)
    track.height, track.width = _tiled(seen, float(seen[0].times_s[0])).shape[:2]
    track.pix_fmt, track.codec_context.time_base = "yuv420p", CLOCK
    return track


def _write_pictures(container: Any, track: Any, seen: Sequence[Stream], start_s: float) -> None:
    for at in seen[0].times_s:
        frame = av.VideoFrame.from_ndarray(_tiled(seen, float(at)), format="rgb24")
        frame.pts, frame.time_base = round((at - start_s) / CLOCK), CLOCK
        container.mux(track.encode(frame))
    container.mux(track.encode(None))


def _tiled(seen: Sequence[Stream], at_s: float) -> np.ndarray:
    """The frames of all cameras nearest to a moment, side by side; H.264 wants even sides, which they have."""
    near = [stream.data[int(np.abs(stream.times_s - at_s).argmin())] for stream in seen]
    tall = max(frame.shape[0] for frame in near)
    return np.hstack([np.pad(frame, ((0, tall - frame.shape[0]), (0, 0), (0, 0))) for frame in near])


def _sound_track(container: Any, heard: Stream) -> Any:
    rate = round(heard.rate_hz)
    layout = "stereo" if _channels(heard).shape[0] == 2 else "mono"
    return container.add_stream("aac", rate=rate if rate in SOUND_RATES else SOUND_RATES[-1], layout=layout)


def _channels(heard: Stream) -> np.ndarray:
    """(1 or 2, N) float32, its peak LOUD."""
    sound = np.nan_to_num(heard.data.reshape(len(heard.data), -1).astype(np.float32))
    sound = sound if sound.shape[1] == 2 else sound.mean(axis=1, keepdims=True)
    sound = sound - sound.mean(axis=0)
    return np.ascontiguousarray((sound * (LOUD / max(float(np.abs(sound).max()), 1e-9))).T)


def _write_sound(container: Any, track: Any, heard: Stream, start_s: float) -> None:
    sound = _channels(heard)
    rate = round(heard.rate_hz)
    frame = av.AudioFrame.from_ndarray(sound, format="fltp", layout="stereo" if len(sound) == 2 else "mono")
    frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
    frame.pts = max(round((heard.times_s[0] - start_s) * rate), 0)
    container.mux(track.encode(frame))
    container.mux(track.encode(None))
