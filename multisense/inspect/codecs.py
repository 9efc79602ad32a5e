"""Sizes after lossless compression, each sense by the codec made for it: FLAC, FFV1, delta + xz."""

import lzma
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.audio.codeccontext import AudioCodecContext
from av.video.codeccontext import VideoCodecContext

BITS = 16
"""Of the range of a sound or a float signal: finer than the noise floor of the sensors that robots carry."""


def flac(samples: np.ndarray, rate_hz: float) -> tuple[list[Any], bytes]:
    """(N, C) int16, C = 1 or 2, as FLAC: (packets, stream header). Container headers are not part of it."""
    encoder = av.CodecContext.create("flac", "w")
    assert isinstance(encoder, AudioCodecContext)
    layout = "mono" if samples.shape[1] == 1 else "stereo"
    encoder.sample_rate, encoder.layout, encoder.format = round(rate_hz), layout, "s16"
    encoder.open()
    packets, size = [], encoder.frame_size or 4096
    for first in range(0, len(samples), size):
        piece = np.ascontiguousarray(samples[first : first + size]).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(piece, format="s16", layout=layout)
        frame.sample_rate, frame.pts, frame.time_base = encoder.sample_rate, first, Fraction(1, encoder.sample_rate)
        packets += encoder.encode(frame)
    packets += encoder.encode(None)
    return [packet for packet in packets if packet.size], bytes(encoder.extradata or b"")


def flac_bytes(samples: np.ndarray, rate_hz: float) -> int:
    """Bytes of (N, C) int16 as FLAC; more than two channels are coded one by one."""
    pairs = [samples] if samples.shape[1] == 2 else [samples[:, k : k + 1] for k in range(samples.shape[1])]
    return sum(packet.size for pair in pairs for packet in flac(pair, rate_hz)[0])


def ffv1_bytes(frames: np.ndarray) -> int:
    """Bytes of (N, H, W, 3) uint8 RGB as FFV1, which codes each frame by itself."""
    encoder = av.CodecContext.create("ffv1", "w")
    assert isinstance(encoder, VideoCodecContext)
    encoder.height, encoder.width = frames.shape[1:3]
    encoder.pix_fmt, encoder.time_base, encoder.thread_count = "bgr0", Fraction(1, 30), 1
    encoder.open()
    packets = []
    for k, image in enumerate(frames):
        # Rows of padding would be needed for the encoder's own alignment, so the reformatter makes the planes.
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24").reformat(format="bgr0")
        frame.pts, frame.time_base = k, encoder.time_base
        packets += encoder.encode(frame)
    return sum(packet.size for packet in [*packets, *encoder.encode(None)])


def quantised(data: np.ndarray, resolution: float | None) -> np.ndarray:
    """(N, C) unsigned integers that hold (N, C) numbers to within half a `resolution`.

    Without one, integers are kept as they are and floats get 2^BITS levels over each channel's range. Values that are
    not finite become the least one.
    """
    if data.dtype.kind in "bui" and resolution is None:
        kept = data.astype(np.uint8) if data.dtype == bool else np.ascontiguousarray(data)
        return kept.view(f"u{kept.dtype.itemsize}")
    x = data.astype(np.float64)
    finite = np.isfinite(x)
    low = np.where(finite, x, np.inf).min(0)
    low = np.where(np.isfinite(low), low, 0.0)
    x = np.where(finite, x, low) - low
    step = resolution or np.maximum(x.max(0), 1e-300) / (2**BITS - 1)
    levels = np.round(x / step)
    return levels.astype(np.uint16 if levels.max(initial=0) < 2**16 else np.uint64)


def delta_xz_bytes(windows: Sequence[np.ndarray]) -> int:
    """Bytes of (N, C) unsigned integers after differencing in time, modulo their width, and xz.

    Channels, and within them the bytes from high to low, lie one after the other, where xz finds what repeats.
    """
    planes = []
    for window in windows:
        steps = np.diff(window, axis=0, prepend=np.zeros_like(window[:1])).T  # unsigned, so it wraps: no bit is added
        planes.append(np.ascontiguousarray(steps).view(np.uint8).reshape(-1, window.dtype.itemsize).T.tobytes())
    return len(lzma.compress(b"".join(planes), lzma.FORMAT_XZ, preset=6))
