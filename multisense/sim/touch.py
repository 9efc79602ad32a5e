"""The fingertip's skin: 6 x 6 taxels around the capsule, each feeling a normal force and two shears."""

import numpy as np

from multisense.sim.world import PHYSICS_HZ, TIP, TIP_HALF_LENGTH_M, TIP_RADIUS_M, Trace

ROWS = COLUMNS = 6
TOUCH_HZ = 250
SPREAD_M = 0.006
"""Standard deviation of the skin's spread of a point force."""
LOW_PASS_S = 0.005
NOISE_N = 0.01
FULL_SCALE_N, BITS = 20.48, 12
CHANNELS = ("normal", "shear_around", "shear_along")


def taxel_places() -> np.ndarray:
    """(6, 6, 3) m in the finger's frame: rows from the bottom up, columns by azimuth from -150 to 150 degrees.

    Azimuth 0 is the finger's x axis, along the forearm away from the elbow; it grows counter-clockwise seen from above.
    """
    height = np.linspace(-1, 1, ROWS) * (TIP_HALF_LENGTH_M + 0.5 * TIP_RADIUS_M)
    beyond = np.maximum(np.abs(height) - TIP_HALF_LENGTH_M, 0)
    radius = np.sqrt(TIP_RADIUS_M**2 - beyond**2)[:, None]
    azimuth = (np.arange(COLUMNS) + 0.5) * 2 * np.pi / COLUMNS - np.pi
    places = (radius * np.cos(azimuth), radius * np.sin(azimuth), np.broadcast_to(height[:, None], (ROWS, COLUMNS)))
    return np.stack(places, axis=-1)


def spread(points_m: np.ndarray) -> np.ndarray:
    """(K, 6, 6) share of each taxel in forces at (K, 3) points of the finger's frame; shares of a force add up to 1."""
    distance = np.linalg.norm(points_m[:, None, None] - taxel_places(), axis=-1)
    share = np.exp(-0.5 * (distance / SPREAD_M) ** 2)
    return share / share.sum(axis=(1, 2), keepdims=True)


def to_finger(trace: Trace, step: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """(K, 3) vectors of the world in the finger's frame, which turns by shoulder + elbow about z."""
    yaw = trace.joints[step, 0] + trace.joints[step, 1]
    x, y, z = vectors.T
    return np.stack([np.cos(yaw) * x + np.sin(yaw) * y, -np.sin(yaw) * x + np.cos(yaw) * y, z], axis=1)


def tip_contacts(trace: Trace) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the contacts on the tip, and (K, 3) force on it: inward normal force, then around and along, N.

    'Around' is counter-clockwise seen from above, 'along' is up the finger, both tangent to the skin.
    """
    of_tip = (trace.contact_body == TIP).any(axis=1)
    index = np.flatnonzero(of_tip)
    step, frame, rows = trace.contact_step[index], trace.contact_frame[index], trace.contact_force[index]
    second = np.where(trace.contact_body[index, 1] == TIP, 1.0, -1.0)[:, None]
    force = to_finger(trace, step, np.einsum("ki,kij->kj", rows, frame) * second)
    inward = to_finger(trace, step, frame[:, 0] * second)
    around = np.cross(inward, (0.0, 0.0, 1.0))
    size = np.linalg.norm(around, axis=1, keepdims=True)
    around = np.where(size > 1e-6, around / np.maximum(size, 1e-6), (0.0, 1.0, 0.0))
    along = np.cross(around, inward)
    parts = [np.einsum("ki,ki->k", force, axis) for axis in (inward, around, along)]
    return index, np.stack(parts, axis=1)


def feel(trace: Trace, rng: np.random.Generator) -> np.ndarray:
    """(N, 6, 6, 3) float32 N at TOUCH_HZ: spread, low-passed, noisy, in steps of 12 bits over +-20.48 N."""
    steps = len(trace.joints)
    index, force = tip_contacts(trace)
    step = trace.contact_step[index]
    points = to_finger(trace, step, trace.contact_point[index] - trace.position[step, TIP])
    raw = np.zeros((steps, ROWS, COLUMNS, 3))
    np.add.at(raw, step, spread(points)[..., None] * force[:, None, None, :])
    skin = _low_pass(raw)[:: PHYSICS_HZ // TOUCH_HZ]
    quantum = 2 * FULL_SCALE_N / 2**BITS
    codes = np.round((skin + rng.normal(0, NOISE_N, skin.shape)) / quantum)
    return (np.clip(codes, -(2 ** (BITS - 1)), 2 ** (BITS - 1) - 1) * quantum).astype(np.float32)


def _low_pass(values: np.ndarray) -> np.ndarray:
    """First-order, time constant LOW_PASS_S, over the first axis at the physics rate; its first 25 ms of response."""
    taps = np.exp(-np.arange(int(5 * LOW_PASS_S * PHYSICS_HZ)) / (LOW_PASS_S * PHYSICS_HZ))
    taps /= taps.sum()
    out = np.zeros_like(values)
    for lag, tap in enumerate(taps):
        out[lag:] += tap * values[: len(values) - lag]
    return out
