"""One pass over a bag: when every message was taken, and what no index of a bag tells. No payload is kept."""

from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from multisense.logs.base import LogError
from multisense.logs.formats.bag_samples import Bag, readable
from multisense.logs.formats.ros_messages import (
    PICTURES,
    SOUND_INFO,
    SOUNDS,
    TRANSFORMS,
    VARYING,
    VECTORS,
    VIDEOS,
    as_bytes,
    numbers,
    stamp_ns,
    starts_group,
    transforms,
    video_codec,
)

KNOWN = {*PICTURES, *SOUNDS, *TRANSFORMS, *VARYING, *VECTORS, *VIDEOS}


@dataclass
class Part:
    """One sensor to be: a topic's messages, or the transforms of one child frame in them."""

    number: array = field(default_factory=lambda: array("q"))
    """Number of the message within its topic."""
    mark: array = field(default_factory=lambda: array("q"))
    """What was learnt of it: bytes of sound, whether it is a keyframe, the place of a transform in its message."""
    stamp_ns: array = field(default_factory=lambda: array("q"))

    def add(self, number: int, mark: int, stamp: int) -> None:
        self.number.append(number)
        self.mark.append(mark)
        self.stamp_ns.append(stamp)


@dataclass
class Track:
    """What the pass over the bag learns of one topic."""

    topic: str
    kind: str
    log_ns: array = field(default_factory=lambda: array("q"))
    parts: dict[str, Part] = field(default_factory=dict)
    """By child frame; "" where the topic is one sensor."""
    layout: Any = None
    """Channels and shape of the first message, where those of others may differ."""
    refused: str = ""

    def add(self, bag: Bag, log_ns: int, raw: bytes) -> None:
        number = len(self.log_ns)
        self.log_ns.append(log_ns)
        try:
            with readable(f"message {number}"):
                for frame, mark, stamp in self._look(bag, raw):
                    self.parts.setdefault(frame, Part()).add(number, mark, stamp)
        except LogError as error:
            self.refused = str(error)

    def _look(self, bag: Bag, raw: bytes) -> Iterable[tuple[str, int, int]]:
        """(child frame, mark, own stamp) of everything in a message; pictures are not decoded."""
        if self.kind in PICTURES or self.kind in VECTORS:
            return [("", 0, bag.stamp_ns(self.topic, raw))]
        message = bag.decode(self.topic, raw)
        if self.kind in TRANSFORMS:
            return [(t.child_frame_id, place, stamp_ns(t)) for place, t in enumerate(transforms(message))]
        if self.kind in VIDEOS:
            return [("", starts_group(video_codec(message), as_bytes(message.data)), stamp_ns(message))]
        if self.kind in SOUNDS:
            return [("", len(as_bytes(message.data)), stamp_ns(message))]
        self._check_layout(message)
        return [("", 0, stamp_ns(message))]

    def _check_layout(self, message: Any) -> None:
        values, channels = VARYING.get(self.kind, numbers)(message)
        self.layout = self.layout or (values.shape, channels)
        if not values.size:
            raise ValueError("no numbers in it")
        if self.layout != (values.shape, channels):
            raise ValueError(f"channels that change: {self.layout}, then {(values.shape, channels)}"[:300])


@dataclass
class Index:
    """What the pass over a bag found."""

    tracks: dict[str, Track]
    infos: dict[str, Any]
    """Last message of every topic that tells how sound is coded."""
    skipped: dict[str, str]


def index_bag(bag: Bag) -> Index:
    """Read a bag once from end to end. What is wrong with one topic leaves out that topic alone."""
    index = Index({}, {}, dict(bag.unread))
    for topic, kind in bag.topics.items():
        if topic.endswith("tf_static"):
            index.skipped[topic] = f"{kind}: transforms that never change"
        elif kind in KNOWN or topic in bag.loose:
            index.tracks[topic] = Track(topic, kind)
        elif kind != SOUND_INFO:
            index.skipped[topic] = f"{kind}: a type that is not read"
    wanted = [topic for topic, kind in bag.topics.items() if topic in index.tracks or kind == SOUND_INFO]
    for topic, log_ns, raw in bag.messages(wanted) if wanted else ():
        if topic not in index.tracks:
            index.infos[topic] = bag.decode(topic, raw)
        elif not index.tracks[topic].refused:
            index.tracks[topic].add(bag, log_ns, raw)
    return index
