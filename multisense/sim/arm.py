"""What the arm does: primitives planned against where the objects are, as joint targets at the command rate."""

from collections.abc import Callable, Iterator

import numpy as np

from multisense.sim.scene import START_M, Primitive, Scene
from multisense.sim.world import BASE_M, COMMAND_HZ, LIFT_M, LINK_M, TIP_HALF_LENGTH_M, TIP_RADIUS_M

LOW_M, HIGH_M = 0.029, LIFT_M[1]
"""Height of the tip's centre when pushing and when passing over objects."""
HOP_M_S = 0.50
PRESS_M = (0.0005, 0.006)
"""Range of how far below an object's top a poke aims, drawn evenly in its logarithm: so spread are the forces of pokes,
which would else be known from the motion alone."""
REACH_M = 0.165
"""The tip stays within |x|, |y| of this, clear of the walls."""


def inverse_kinematics(tip_m: np.ndarray) -> np.ndarray:
    """(..., 3) tip positions -> (..., 3) joint positions (shoulder, elbow in rad, lift in m), elbow to the left.

    Law of cosines for two equal links; the lift is the tip's height itself.
    """
    x, y = tip_m[..., 0] - BASE_M[0], tip_m[..., 1] - BASE_M[1]
    reach = np.hypot(x, y)
    half = np.arccos(np.clip(reach / (2 * LINK_M), -1, 1))
    return np.stack([np.arctan2(y, x) + half, -2 * half, tip_m[..., 2]], axis=-1)


def min_jerk(progress: np.ndarray) -> np.ndarray:
    """0..1 -> 0..1 with zero velocity and acceleration at both ends (Flash and Hogan, 1985)."""
    p = np.clip(progress, 0, 1)
    return p**3 * (10 - 15 * p + 6 * p**2)


def _segment(start: np.ndarray, stop: np.ndarray, seconds: float) -> np.ndarray:
    """(n, 3) tip positions after `start`, up to and with `stop`."""
    count = max(round(seconds * COMMAND_HZ), 2)
    return start + min_jerk(np.arange(1, count + 1) / count)[:, None] * (stop - start)


def _hop(start: np.ndarray, stop: np.ndarray) -> np.ndarray:
    """Up, over and down to `stop`: sideways motion only while (nearly) above the objects."""
    seconds = 0.34 + float(np.linalg.norm(stop[:2] - start[:2])) / HOP_M_S
    progress = np.arange(1, int(seconds * COMMAND_HZ) + 1) / int(seconds * COMMAND_HZ)
    path = start + min_jerk((progress - 0.15) / 0.7)[:, None] * (stop - start)
    up, down = min_jerk(progress / 0.35), min_jerk((progress - 0.65) / 0.35)
    path[:, 2] = start[2] + up * (HIGH_M - start[2]) + down * (stop[2] - HIGH_M)
    return path


def _rest(place: np.ndarray, seconds: float) -> np.ndarray:
    return np.repeat(place[None], int(seconds * COMMAND_HZ), axis=0)


def commands(
    scene: Scene, object_xy: Callable[[], np.ndarray], rng: np.random.Generator, seconds: float
) -> Iterator[np.ndarray]:
    """Joint targets (3,) at the command rate, for ever; `object_xy` says before each primitive where the objects are.

    No primitive begins in the last 0.6 s, in which it could not reach its object.
    """
    tip = np.array([*scene.tip_m, HIGH_M])
    left = int(seconds * COMMAND_HZ)
    for primitive in scene.primitives:
        if left < 0.6 * COMMAND_HZ:
            break
        path = _plan(primitive, scene, tip, object_xy(), rng)
        yield from inverse_kinematics(path)
        tip, left = path[-1], left - len(path)
    while True:
        yield inverse_kinematics(tip)


def _plan(
    primitive: Primitive, scene: Scene, tip: np.ndarray, objects: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """(n, 3) tip positions of one primitive, its rest and the way there."""
    rest = _rest(tip, primitive.pause_s)
    target = scene.objects[primitive.target]
    if primitive.kind == "poke":
        place = objects[primitive.target] + rng.normal(0, 0.2 * target.radius_m, 2)
        depth = float(np.exp(rng.uniform(*np.log(PRESS_M))))
        return np.concatenate([rest, _poke(tip, place, 2 * target.half_height_m, primitive.speed_m_s, depth)])
    if primitive.kind == "sweep":
        start, end = _free_line(objects, rng)
        stroke = _segment(start, end, float(np.linalg.norm(end - start)) / primitive.speed_m_s)
        return np.concatenate([rest, _hop(tip, start), stroke, _lift(end, np.zeros(3))])
    clear = 1.25 * target.radius_m + TIP_RADIUS_M
    start, direction, room = _approach(objects, primitive.target, clear + 0.02, rng)
    if primitive.kind == "strike":
        stroke = _strike(start, direction, 0.02 + 0.25 * target.radius_m, primitive.speed_m_s)
    else:
        stroke = _push(start, direction, room, primitive.speed_m_s)
    return np.concatenate([rest, _hop(tip, start), *stroke])


def _approach(
    objects: np.ndarray, target: int, clear_m: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, float]:
    """Where to come down behind the target, the unit direction to drive it, and the room ahead (m), for a random goal.

    Of 24 random goals the first whose landing place lies inside the table and clear of the other objects is taken; in a
    corner where there is none, the one nearest to that.
    """
    centre, others = objects[target], np.delete(objects, target, axis=0)
    best = None
    for goal in rng.uniform(-START_M, START_M, (24, 2)):
        way = goal - centre
        room = float(np.linalg.norm(way))
        angle = np.arctan2(way[1], way[0]) + rng.normal(0, 0.06)
        direction = np.array([np.cos(angle), np.sin(angle), 0.0])
        place = centre - clear_m * direction[:2]
        outside = float(np.abs(place).max() - REACH_M)
        crowded = float(0.055 - np.linalg.norm(others - place, axis=1).min())
        trouble = max(outside, crowded, 0.08 - room, 0.0)
        if best is None or trouble < best[0]:
            best = (trouble, place, direction, room)
        if trouble == 0:
            break
    assert best is not None
    _, place, direction, room = best
    return np.array([*np.clip(place, -REACH_M, REACH_M), LOW_M]), direction, room


def _free_line(objects: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Two low places with nothing between: of 24 random lines, the one that passes the objects farthest off."""
    ends = rng.uniform(-REACH_M, REACH_M, (24, 2, 2))
    along = ends[:, :1] + np.linspace(0, 1, 9)[None, :, None] * (ends[:, 1:] - ends[:, :1])
    gaps = np.linalg.norm(along[:, :, None] - objects, axis=-1).min(axis=(1, 2))
    long_enough = np.linalg.norm(ends[:, 1] - ends[:, 0], axis=1) > 0.06
    start, end = ends[np.argmax(np.where(long_enough, gaps, -1))]
    return np.array([*start, LOW_M]), np.array([*end, LOW_M])


def _inside(place: np.ndarray) -> np.ndarray:
    return np.array([*np.clip(place[:2], -REACH_M, REACH_M), place[2]])


def _push(start: np.ndarray, direction: np.ndarray, room: float, speed: float) -> list[np.ndarray]:
    end = _inside(start + direction * min(room + 0.03, 0.20))
    return [_segment(start, end, float(np.linalg.norm(end - start)) / speed), _lift(end, direction)]


def _strike(start: np.ndarray, direction: np.ndarray, gap: float, speed: float) -> list[np.ndarray]:
    """Fastest where the object is met: a min-jerk stroke peaks half way at 1.875 times its mean speed."""
    back, end = _inside(start - 0.02 * direction), _inside(start + direction * (gap + 0.05))
    stroke = _segment(back, end, 1.875 * float(np.linalg.norm(end - back)) / speed)
    return [_segment(start, back, 0.10), stroke, _lift(end, direction)]


def _poke(tip: np.ndarray, place: np.ndarray, top: float, speed: float, depth: float) -> np.ndarray:
    """Down on the object, `depth` beyond its top: the servo's stiffness makes that a force."""
    touching = np.array([*place, top + TIP_HALF_LENGTH_M + TIP_RADIUS_M])
    above, below = np.array([*place, HIGH_M]), touching - (0, 0, depth)
    down = _segment(above, below, max(1.3 * (HIGH_M - below[2]) / speed, 0.08))
    return np.concatenate([_hop(tip, above), down, _rest(below, 0.12), _segment(below, above, 0.25)])


def _lift(place: np.ndarray, direction: np.ndarray) -> np.ndarray:
    """Up and a little back, so that the finger does not drag along what it leaves."""
    away = _inside(place - 0.02 * direction)
    return _segment(place, np.array([*away[:2], HIGH_M]), 0.26)
