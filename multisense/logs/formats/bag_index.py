"""One pass over a bag: when every message was taken, and what no index of a bag tells. No payload is kept."""

from array import array
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from multisense.logs.base import LogError
from multisense.logs.formats.bag_samples import Bag, readable
from multisense.logs.formats.ros_messages import (
    JOINTS,
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
MOST_PUBLISHERS = 16
"""To one topic of joints; more sets of names are names that change."""


@dataclass
class Part:
    """One sensor to be: a topic's messages, those of some joints, or the transforms of one child frame in them."""

    number: array = field(default_factory=lambda: array("q"))
    """Number of the message within its topic."""
    mark: array = field(default_factory=lambda: array("q"))
    """What was learnt of it: bytes of sound, whether it is a keyframe, the place of a transform in its message."""
    stamp_ns: array = field(default_factory=lambda: array("q"))
    layout: Any = None
    """Channels and shape of the first message, where those of others may differ."""

    def add(self, number: int, mark: int, stamp: int, layout: Any) -> None:
        self.layout = self.layout or layout
        if self.layout != layout:
            raise ValueError(f"channels that change: {self.layout}, then {layout}"[:300])
        self.number.append(number)
        self.mark.append(mark)
        self.stamp_ns.append(stamp)


@dataclass
class Track:
    """What the pass over the bag learns of one topic."""

    topic: str
    kind: str
    log_ns: array = field(default_factory=lambda: array("q"))
    parts: dict[tuple[str, ...], Part] = field(default_factory=dict)
    """By child frame, or by joints, of which every publisher to a topic has its own; () of any other type."""
    refused: str = ""

    def add(self, bag: Bag, log_ns: int, raw: bytes) -> None:
        number = len(self.log_ns)
        self.log_ns.append(log_ns)
        try:
            with readable(f"message {number}"):
                for key, mark, stamp, layout in self._look(bag, raw):
                    self.parts.setdefault(key, Part()).add(number, mark, stamp, layout)
                if self.kind in JOINTS and len(self.parts) > MOST_PUBLISHERS:
                    raise ValueError(f"channels that change: more than {MOST_PUBLISHERS} sets of joints")
        except LogError as error:
            self.refused = str(error)

    def named_parts(self) -> list[tuple[str, Part]]:
        """By child frame; joints by the first of each set, where there are several; "" where the topic is one sensor."""
        is_one = self.kind not in TRANSFORMS and len(self.parts) == 1
        return [("" if is_one else (*key, "unnamed")[0], part) for key, part in self.parts.items()]

    def _look(self, bag: Bag, raw: bytes) -> Iterable[tuple[tuple[str, ...], int, int, Any]]:
        """(key of the part, mark, own stamp, layout) of everything in a message; pictures are not decoded."""
        if self.kind in PICTURES or self.kind in VECTORS:
            return [((), 0, bag.stamp_ns(self.topic, raw), None)]
        message = bag.decode(self.topic, raw)
        if self.kind in TRANSFORMS:
            return [((t.child_frame_id,), place, stamp_ns(t), None) for place, t in enumerate(transforms(message))]
        if self.kind in VIDEOS:
            return [((), starts_group(video_codec(message), as_bytes(message.data)), stamp_ns(message), None)]
        if self.kind in SOUNDS:
            return [((), len(as_bytes(message.data)), stamp_ns(message), None)]
        values, channels = VARYING.get(self.kind, numbers)(message)
        if not values.size:
            raise ValueError("no numbers in it")
        key = tuple(message.name) if self.kind in JOINTS else ()
        return [(key, 0, stamp_ns(message), (values.shape, channels))]


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
