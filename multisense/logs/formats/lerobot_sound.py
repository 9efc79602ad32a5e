"""The sound of a LeRobot episode: a file of its own (v2.1), or the part of a shared file between two times (v3.0).

LeRobot itself has no sound; this is the layout proposed in its pull request 967: a feature of dtype "audio", and files
under `audio/`. Sound begins with the episode, at the episode's time 0.
"""

from dataclasses import dataclass

import numpy as np

from multisense.logs.base import log_error
from multisense.logs.clock import AnchoredClock, check_anchors
from multisense.logs.foreign import Sensor, on_clock
from multisense.logs.formats.lerobot_meta import MediaPart
from multisense.logs.sound import Sound, open_sound


@dataclass(frozen=True)
class SoundPart:
    """Samples of a sound file from `begin` on."""

    sound: Sound
    begin: int

    def read(self, first: int, last: int) -> np.ndarray:
        return self.sound.read(self.begin + first, self.begin + last)


def episode_sound(name: str, part: MediaPart) -> Sensor:
    """A microphone at its own rate, on the episode's clock. Raises LogError where the file holds no sound of it."""
    sound = open_sound(part.path)
    whole = AnchoredClock(sound.anchors, sound.rate_hz, sound.count)
    first, last = whole.span(part.start_s, part.stop_s)
    if last <= first:
        found = f"no sample between {part.start_s:g} and {part.stop_s:g} s"
        raise log_error(part.path, found, "the sound of an episode, as meta/ says", "Download the data set again.")
    inner = sound.anchors[(sound.anchors[:, 0] > first) & (sound.anchors[:, 0] < last - 1), 0]
    index = np.unique([first, *inner, last - 1])
    seconds = np.concatenate([whole.times(int(i), int(i) + 1) for i in index]) - part.start_s
    anchors = np.stack([index - first, seconds], 1)
    check_anchors(anchors, part.path)
    clock = AnchoredClock(anchors, sound.rate_hz, last - first)
    return on_clock(
        name, clock, SoundPart(sound, first), sound.shape, "float32", modality="audio", rate_hz=sound.rate_hz
    )
