"""What cameras saw and a microphone heard, as one small MP4 that a browser keeps in time by itself."""

import io
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import av
import numpy as np
from PIL import Image

from multisense.inspect.pictures import drawn_as
from multisense.logs.base import SensorLog
from multisense.types import Stream

HEIGHT, MOST_WIDTH = 240, 960
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
    seen = [log.read(i.name, *span) for i in infos if drawn_as(i) == "frames" and i.shape[2] in (1, 3, 4)]
    heard = [log.read(i.name, *span) for i in infos if drawn_as(i) == "sound"]
    seen, heard = [s for s in seen if len(s.data)], [s for s in heard if len(s.data) > 1][:1]
    if not seen and not heard:
        return None
    file = io.BytesIO()
    with av.open(file, "w", format="mp4", options={"movflags": "+faststart"}) as container:
        picture = _picture_track(container, seen) if seen else None
        sound = _sound_track(container, heard[0]) if heard else None
        if picture is not None:
            _write_pictures(container, picture, seen, span[0])
        if sound is not None:
            _write_sound(container, sound, heard[0], span[0])
    return file.getvalue()


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
    """The frames of all cameras nearest to a moment, side by side, with even sides as H.264 wants them."""
    near = [stream.data[int(np.abs(stream.times_s - at_s).argmin())] for stream in seen]
    height = min(HEIGHT, max(frame.shape[0] for frame in near))
    widths = [round(frame.shape[1] * height / frame.shape[0]) for frame in near]
    scale = min(1.0, MOST_WIDTH / sum(widths))
    height, widths = 2 * max(int(height * scale) // 2, 1), [2 * max(int(w * scale) // 2, 1) for w in widths]
    colour = [np.repeat(f, 3, axis=2) if f.shape[2] == 1 else np.ascontiguousarray(f[..., :3]) for f in near]
    return np.hstack([np.asarray(Image.fromarray(f).resize((w, height))) for f, w in zip(colour, widths, strict=True)])


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
