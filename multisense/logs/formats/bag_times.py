"""When the messages of a bag were taken: by their own stamp (`header.stamp`), or by the bag's time.

The bag's time, at which a message was written down, takes the place of stamps that are missing or zero, that are of
another clock than the others', or that run backward or come twice. `Timed.note` says so.
"""

from dataclasses import dataclass, replace

import numpy as np

from multisense.logs.formats.bag_index import Index, Part, Track

HOUR_NS = 3600 * 10**9
OWN = "header.stamp"


@dataclass(frozen=True)
class Timed:
    """A sensor to be, and when its samples were taken."""

    track: Track
    name: str
    """Of the part of its topic; "" where it is all of it."""
    part: Part
    bag_ns: np.ndarray
    times_ns: np.ndarray
    note: str

    @property
    def key(self) -> str:
        return f"{self.track.topic}/{self.name}" if self.name else self.track.topic

    @property
    def increases(self) -> bool:
        return _increase(self.times_ns)

    @property
    def on_bag_time(self) -> bool:
        return self.note != OWN


def timed_parts(index: Index) -> list[Timed]:
    """All that may be sensors. Why a topic has none goes to `index.skipped`; times that do not increase are left so."""
    found = []
    for track in index.tracks.values():
        if track.refused or not track.parts:
            index.skipped[track.topic] = f"{track.kind}: {track.refused or 'no messages'}"
            continue
        log_ns = np.array(track.log_ns, np.int64)
        for name, part in track.named_parts():
            bag_ns, own_ns = log_ns[np.array(part.number)], np.array(part.stamp_ns, np.int64)
            fault = _fault(own_ns, bag_ns)
            note = f"bag time: {fault}" if fault else OWN
            found.append(Timed(track, name, part, bag_ns, bag_ns if fault else own_ns, note))
    return _one_epoch(found)


def _fault(own_ns: np.ndarray, bag_ns: np.ndarray) -> str:
    """Why the bag's time is the better one, "" where it is not."""
    if (own_ns <= 0).any():
        return "no header.stamp, or one that is zero"
    if _increase(own_ns) or not _increase(bag_ns):
        return ""
    at = int(np.argmax(np.diff(own_ns) <= 0)) + 1
    return f"header.stamp of message {at} {'runs backward' if own_ns[at] < own_ns[at - 1] else 'is that of the one before'}"


def _increase(times_ns: np.ndarray) -> bool:
    return bool((np.diff(times_ns) > 0).all())


def _one_epoch(timed: list[Timed]) -> list[Timed]:
    """Where stamps are of clocks that began at different times, the bag's time takes the place of the far ones."""
    gaps = [int(np.median(item.times_ns - item.bag_ns)) for item in timed]
    if not gaps or max(gaps) - min(gaps) <= HOUR_NS:
        return timed
    return [
        replace(item, times_ns=item.bag_ns, note=f"bag time: header.stamp is of another clock, {gap / 1e9:.0f} s away")
        if abs(gap) > HOUR_NS
        else item
        for item, gap in zip(timed, gaps, strict=True)
    ]
