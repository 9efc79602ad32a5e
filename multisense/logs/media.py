"""Video files: one reader over PyAV and decord, and the encoder.

Frames are addressed by their place in presentation order, and only the keyframe groups that hold a wanted frame are
decoded. Every failure is a LogError that names the file and, where known, the codec.
"""

import importlib.util
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import Any, Literal, Protocol

import av
import numpy as np
from av.codec.context import Flags
from av.error import FFmpegError
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from multisense.logs.base import LogError, log_error
from multisense.logs.clock import check_times

Backend = Literal["auto", "pyav", "decord"]

FORMATS = "mov,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,asf,h264,hevc,m4v,ogg,wav,w64,flac,mp3,aac,aiff,caf,au,ivf"
"""Demuxers of FFmpeg that read the one file they are given; it knows lists of files too, and what they name may be
anywhere."""
MOST_BYTES = 1 << 28
"""Of one frame."""
ENCODER = {"crf": "18", "preset": "veryfast", "threads": "1", "bf": "0", "x264-params": "scenecut=0"}
"""How libx264 is asked to encode, so that the same frames give the same bytes."""
LONG_GROUP = 48
"""Frames per keyframe from which decord is the faster of the two."""


class Video(Protocol):
    """An open video file. Not for sharing between threads or across a fork."""

    path: str
    shape: tuple[int, ...]
    """(height, width, 3)"""
    times_s: np.ndarray
    """(count,) float64: the presentation time of every frame, as the container has it."""

    def frames(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """(len(indices), height, width, 3) uint8 RGB. `indices` are sorted and may repeat."""
        ...

    def close(self) -> None: ...


def open_video(path: str, backend: Backend = "auto") -> Video:
    """Open a video file. `auto` takes PyAV for short keyframe groups, and decord for long ones that it can read.

    Raises LogError when the file is missing, is no video, or cannot be decoded by the backend asked for.
    """
    if backend == "decord":
        return DecordVideo(path)
    video = PyavVideo(path)
    if backend == "pyav" or video.frames_per_key <= LONG_GROUP or importlib.util.find_spec("decord") is None:
        return video
    try:
        faster = DecordVideo(path)
    except LogError:  # narrow frames, open groups, or a codec that this decord lacks
        return video
    video.close()
    return faster


def open_container(path: str) -> Any:
    """A media file opened by PyAV for reading, which opens no other. Raises FFmpegError, OSError or ValueError."""
    options = {"format_whitelist": FORMATS, "protocol_whitelist": "file"}
    return av.open(path, options=options, metadata_errors="replace")


class PyavVideo:
    """A video decoded by PyAV (FFmpeg's libraries, carried by its wheel), one thread."""

    def __init__(self, path: str) -> None:
        self.path = path
        try:
            self._container = open_container(path)
        except (FFmpegError, OSError, ValueError) as error:
            raise _unreadable(path, error) from error
        stream = self._container.streams.best("video")
        if not isinstance(stream, VideoStream) or not stream.codec_context:
            raise log_error(path, "no video stream", "a video file", "Check what this file is.")
        self._stream = stream
        self.codec = stream.codec_context.codec.canonical_name
        self._stream.thread_type = "NONE"
        self._stream.thread_count = 1
        self._reformatter = VideoReformatter()
        self.shape: tuple[int, ...] = (self._stream.height, self._stream.width, 3)
        if not 0 < self._stream.height * self._stream.width * 3 <= MOST_BYTES:
            raise log_error(path, f"frames of shape {self.shape}", "pictures", "The file is damaged: copy it again.")
        self._index()

    def close(self) -> None:
        self._container.close()

    def frames(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        order, place = _checked_indices(indices, len(self.times_s), self.path)
        has_repeats = len(order) < len(place)
        position = {int(self._pts[index]): i for i, index in enumerate(order)}
        try:
            out = np.empty((len(order), *self.shape), np.uint8)
            for frame in self._decode(self._pts[order]):
                if frame.is_corrupt:  # the decoder has made up what it could not read
                    raise self._damaged(frame.pts)
                # One thread: the default starts and joins threads for every frame.
                rgb = self._reformatter.reformat(frame, format="rgb24", threads=1)
                out[position.pop(frame.pts)] = rgb.to_ndarray()
        except LogError:
            raise
        except (FFmpegError, ValueError, OverflowError, MemoryError) as error:  # frames of another size, for one
            raise _unreadable(self.path, error, self.codec) from error
        if position:
            raise self._damaged(min(position))
        return out[place] if has_repeats else out

    def _damaged(self, stamp: int) -> LogError:
        lost = int(np.searchsorted(self._pts, stamp))
        fix = "The file is damaged or cut short: copy or encode it again, or leave this log out."
        return log_error(self.path, f"frame {lost} that {self.codec} cannot decode", "whole frames", fix)

    def _decode(self, wanted: np.ndarray) -> Iterator[Any]:
        """The frames of the `wanted` presentation stamps (increasing): one seek per run of neighbouring key groups."""
        groups = np.searchsorted(self._key_pts, wanted, side="right") - 1
        for run in np.split(np.arange(len(wanted)), np.flatnonzero(np.diff(groups) > 1) + 1):
            if len(run):
                self._container.seek(int(self._key_dts[groups[run[0]]]), stream=self._stream)
                yield from self._decode_until(set(wanted[run].tolist()))

    def _decode_until(self, stamps: set[int]) -> Iterator[Any]:
        for packet in self._container.demux(self._stream):
            for frame in packet.decode():
                if frame.pts in stamps:
                    stamps.remove(frame.pts)
                    yield frame
            if not stamps:
                return

    def _index(self) -> None:
        """Presentation stamps of all frames, and where the keyframes are, without decoding."""
        pts, dts, is_key = self._container_index() if self._has_plain_index() else self._packet_index()
        if not len(pts) or not is_key.any():
            raise log_error(self.path, f"no decodable {self.codec} frame", "a video file", "The file is damaged.")
        order = np.argsort(pts)
        self._pts = pts[order]
        if (np.diff(self._pts) == 0).any():
            raise log_error(self.path, "two frames with one time stamp", "a stamp for every frame", "Encode it again.")
        self.times_s = self._pts * float(self._stream.time_base or 1)
        check_times(self.times_s, len(order), self.path)
        self._key_pts, self._key_dts = pts[order][is_key[order]], dts[order][is_key[order]]
        self.frames_per_key = len(pts) / int(is_key.sum())
        earliest_after = np.minimum.accumulate(pts[::-1])[::-1]
        self.has_open_groups = bool((earliest_after[is_key] < pts[is_key]).any())

    def _has_plain_index(self) -> bool:
        """Whether the container's own index lists every frame and decoding order is presentation order."""
        entries = self._stream.index_entries
        return 0 < self._stream.frames == len(entries) and not self._stream.codec_context.has_b_frames

    def _container_index(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        entries = [(entry.timestamp, entry.is_keyframe) for entry in self._stream.index_entries if not entry.is_discard]
        pts = np.array([stamp for stamp, _ in entries], np.int64)
        return pts, pts, np.array([key for _, key in entries], bool)

    def _packet_index(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Read every packet's header: slower, but right for reordered frames and containers without an index."""
        try:
            packets = [p for p in self._container.demux(self._stream) if p.pts is not None and not p.is_discard]
        except FFmpegError as error:
            raise _unreadable(self.path, error, self.codec) from error
        rows = [(p.pts, p.pts if p.dts is None else p.dts, p.is_keyframe) for p in packets]
        pts, dts, is_key = np.array(rows, np.int64).reshape(-1, 3).T
        return pts, dts, is_key.astype(bool)


class DecordVideo:
    """A video decoded by decord, one thread. PyAV gives the time stamps, because decord's start at 0 in every file."""

    def __init__(self, path: str) -> None:
        import decord

        index = PyavVideo(path)
        index.close()
        self.path, self.times_s, self._codec = path, index.times_s, index.codec
        if index.has_open_groups:  # decord counts from the keyframe, so after a seek it returns later frames
            found = f"frames before their keyframe ({self._codec}, open groups)"
            raise log_error(path, found, "closed groups for decord", "Use the pyav backend.")
        try:
            self._reader = decord.VideoReader(path, num_threads=1)
            self.shape: tuple[int, ...] = tuple(self._reader[0].shape)
        except (decord.DECORDError, RuntimeError, IndexError) as error:
            raise _unreadable(path, error, self._codec) from error
        if self.shape[2] != 3:  # dmlc/decord#336: it takes the padding of a narrow row for more colours
            raise log_error(path, f"decord frames of shape {self.shape}", "three colours", "Use the pyav backend.")
        if len(self._reader) != len(self.times_s):
            found = f"{len(self._reader)} frames by decord and {len(self.times_s)} by PyAV"
            raise log_error(path, found, "the same count from both", "The file is damaged: encode it again.")

    def close(self) -> None:
        del self._reader

    def frames(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        import decord

        order, place = _checked_indices(indices, len(self.times_s), self.path)
        if not len(order):
            return np.empty((0, *self.shape), np.uint8)
        try:
            return self._reader.get_batch(order).asnumpy()[place]
        except (decord.DECORDError, RuntimeError) as error:
            raise _unreadable(self.path, error, self._codec) from error


def write_video(path: str, frames: np.ndarray, rate_hz: float, group: int = 10) -> None:
    """Write (N, H, W, 3) uint8 RGB as H.264 (crf 18, yuv420p) in MP4, a keyframe every `group` frames.

    The same frames give the same bytes. Raises LogError when the frames are not of that form or have an odd side.
    """
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or not len(frames):
        found = f"{frames.dtype} frames of shape {frames.shape}"
        raise log_error(path, found, "uint8 (N, height, width, 3)", "Convert the frames to 8-bit RGB.")
    if frames.shape[1] % 2 or frames.shape[2] % 2:
        found = f"{frames.shape[1]} x {frames.shape[2]} pixels"
        raise log_error(path, found, "even sides (H.264 halves the colour planes)", "Crop or pad by one pixel.")
    with av.open(path, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        rate = Fraction(rate_hz).limit_denominator(1001)
        stream = container.add_stream("libx264", rate=rate, options={**ENCODER, "g": str(group)})
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        stream.codec_context.flags |= Flags.bitexact
        for image in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))


def _checked_indices(indices: Sequence[int] | np.ndarray, count: int, path: str) -> tuple[np.ndarray, np.ndarray]:
    """Distinct indices, increasing, and the place of each asked-for one among them."""
    asked = np.asarray(indices, np.int64)
    if len(asked) and (asked[0] < 0 or asked[-1] >= count or (np.diff(asked) < 0).any()):
        found = f"frames {asked.min()} to {asked.max()}"
        raise log_error(path, found, f"sorted indices of its {count} frames", "Is the video shorter than its times?")
    return np.unique(asked, return_inverse=True)


def _unreadable(path: str, error: Exception, codec: str = "") -> LogError:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    what = f"an undecodable {codec} stream" if codec else "no readable video"
    return log_error(path, f"{what} ({reason[:200]})", "a whole video file", "Copy or encode it again.")
