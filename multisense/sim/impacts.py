"""From contacts per step to impacts: when two bodies met, where, and how fast."""

from dataclasses import dataclass

import numpy as np

from multisense.sim.world import PHYSICS_HZ, TIP, WALL, Trace

APART_S = 0.03
"""A pair that was apart for less than this has not parted: soft contacts chatter."""


@dataclass(frozen=True, repr=False)
class Impacts:
    """E impacts in order of time."""

    time_s: np.ndarray
    """(E,) when the surfaces met, between steps."""
    body: np.ndarray
    """(E, 2) bodies by number, the smaller first: an object, then an object, the tip or a wall."""
    point: np.ndarray
    """(E, 3) m"""
    speed: np.ndarray
    """(E,) closing speed along the normal, m/s."""

    def of_tip(self, slowest_m_s: float) -> "Impacts":
        """Those of the fingertip on an object."""
        keep = (self.body[:, 1] == TIP) & (self.speed >= slowest_m_s)
        return Impacts(self.time_s[keep], self.body[keep], self.point[keep], self.speed[keep])


def point_velocity(trace: Trace, step: np.ndarray, body: np.ndarray, point: np.ndarray) -> np.ndarray:
    """(K, 3) velocity of the material point of `body` at `point`: v + w x (p - x); walls stand still."""
    moving = np.minimum(body, TIP)
    arm = point - trace.position[step, moving]
    velocity = trace.velocity[step, moving] + np.cross(trace.spin[step, moving], arm)
    return np.where((body == WALL)[:, None], 0.0, velocity)


def find_impacts(trace: Trace) -> Impacts:
    """Onsets of contact between bodies at a positive closing speed."""
    body = np.sort(trace.contact_body, axis=1)
    pair = body[:, 0] * (WALL + 1) + body[:, 1]
    order = np.lexsort((trace.contact_step, pair))
    step, pair_sorted = trace.contact_step[order], pair[order]
    fresh = np.ones(len(order), bool)
    fresh[1:] = (np.diff(pair_sorted) != 0) | (np.diff(step) > APART_S * PHYSICS_HZ)
    first = np.sort(order[fresh])
    step, point = trace.contact_step[first], trace.contact_point[first]
    one, two = (point_velocity(trace, step, trace.contact_body[first, i], point) for i in (0, 1))
    speed = np.einsum("ki,ki->k", one - two, trace.contact_frame[first, 0])
    # The surfaces met before the step that found them inside each other: go back by depth / speed, a step at most.
    early = np.clip(trace.contact_depth[first] / np.maximum(speed, 1e-3), 0, 1 / PHYSICS_HZ)
    keep = (speed > 0.01) & (body[first, 0] < TIP)
    time = np.maximum(step / PHYSICS_HZ - early, 0)
    keep = np.flatnonzero(keep)[np.argsort(time[keep], kind="stable")]
    return Impacts(time[keep], body[first][keep], point[keep], speed[keep])
