"""A video that grows: H.264 in fragmented MP4 while it is recorded, one plain MP4 when it is finished."""

import io
import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.codec.context import Flags

from multisense.logs.media import ENCODER

FRAGMENT = "empty_moov+default_base_moof+frag_custom+frag_discont+skip_trailer"


class GrowingVideo:
    """The video file `path`; frames since the last `flush` are in memory, compressed.

    A flush ends the group of pictures and adds it to the file as one fragment, so nothing stays in the encoder, and a
    process killed in the middle of it leaves the fragments before.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], rate_hz: float) -> None:
        """`shape` is (H, W, 3), both sides even."""
        self.path, self.count = path, 0
        """Frames appended, flushed or not."""
        self._shape, self._rate = shape, Fraction(rate_hz).limit_denominator(1001)
        self._memory: io.BytesIO | None = None
        self._fragments = 0

    def append(self, frame: np.ndarray) -> None:
        """Encode one (H, W, 3) uint8 RGB frame."""
        if self._memory is None:
            self._begin_fragment()
        picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
        picture.pts, picture.time_base = self.count, 1 / self._rate
        self._container.mux(self._stream.encode(picture))
        self.count += 1

    def flush(self) -> None:
        """Bring all frames appended so far to the disk."""
        if self._memory is None:
            return
        self._container.mux(self._stream.encode(None))
        self._container.close()
        whole, self._memory = self._memory.getvalue(), None
        start = whole.index(b"moof") - 4
        if self._fragments == 1:
            self.path.write_bytes(whole[:start])
        _append_box(self.path, whole[start:])

    def finish(self) -> None:
        """Flush, then copy the packets into one plain MP4, which opens without reading it through."""
        self.flush()
        if not self.count:
            return
        partial = self.path.with_name(f".{self.path.name}.partial")
        options = {"fflags": "+bitexact"}
        with av.open(str(self.path)) as source, av.open(str(partial), "w", format="mp4", options=options) as target:
            stream = target.add_stream_from_template(source.streams.video[0])
            for packet in source.demux(video=0):
                if packet.dts is not None:
                    packet.stream = stream
                    target.mux(packet)
        with open(partial, "rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, self.path)

    def _begin_fragment(self) -> None:
        self._fragments += 1
        self._memory = io.BytesIO()
        # Stamps count on from fragment to fragment; FFmpeg would otherwise begin each at zero.
        options = {
            "fflags": "+bitexact", "movflags": FRAGMENT, "fragment_index": str(self._fragments),
            "avoid_negative_ts": "disabled", "use_editlist": "0",
        }  # fmt: skip
        self._container = av.open(self._memory, "w", format="mp4", options=options)
        self._stream = self._container.add_stream("libx264", rate=self._rate, options={**ENCODER, "g": "10"})
        self._stream.height, self._stream.width, self._stream.pix_fmt = *self._shape[:2], "yuv420p"
        self._stream.codec_context.flags |= Flags.bitexact


def _append_box(path: Path, box: bytes) -> None:
    """Append an MP4 box, its header (size and type) last: until then players see a box of zeros and stop there."""
    with open(path, "r+b", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(8, os.SEEK_CUR)
        _write(file, box[8:])
        file.seek(end)
        _write(file, box[:8])
        os.fsync(file.fileno())


def _write(file: io.FileIO, data: bytes) -> None:
    """All of it: an unbuffered write may take less than it is given."""
    left = memoryview(data)
    while left:
        left = left[file.write(left) or 0 :]
