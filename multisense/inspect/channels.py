"""Naming channels for people."""

import numpy as np

from multisense.types import SensorInfo


def named(info: SensorInfo, which: np.ndarray, most: int = 4) -> str:
    """The channels where `which` (C,) holds: names, else places in a sample; a few, and how many more."""
    if not info.shape:
        return "its one channel"
    channels = [int(k) for k in np.flatnonzero(which)]
    shown = [_name(info, k, len(which)) for k in channels[:most]]
    more = f" and {len(channels) - most} more" if len(channels) > most else ""
    return f"{len(channels)} of {len(which)} channels: {', '.join(shown)}{more}"


def _name(info: SensorInfo, channel: int, count: int) -> str:
    if len(info.channels) == count:
        return info.channels[channel]
    return str([int(i) for i in np.unravel_index(channel, info.shape)])
