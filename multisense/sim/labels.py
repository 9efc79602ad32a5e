"""Ground truth as labels, each arranged so that only certain senses can tell it (see datasets/tabletop/README.md)."""

import numpy as np

from multisense.sim.impacts import Impacts
from multisense.sim.scene import COLOURS, MASSES, MATERIALS, OBJECT_COUNT, Scene
from multisense.sim.touch import tip_contacts
from multisense.sim.world import PHYSICS_HZ, TIP, Trace
from multisense.types import Label

LABEL_HZ = 50
TOUCHING_N = 0.05
"""Normal force from which the fingertip counts as touching: above the noise of the skin."""
AUDIBLE_M_S = 0.05
"""Closing speed from which a touch counts as a strike."""
HOLD_S = 0.5
"""`object_position` goes on for so long after a touch: where a struck object slid to, the arm cannot know."""
PUSH_S = 0.10
PUSH_M_S = 0.02


def label_trace(trace: Trace, impacts: Impacts, scene: Scene) -> tuple[Label, ...]:
    """The seven labels of a log, on the simulator's true time."""
    force, body = object_force(trace)
    touched = force > TOUCHING_N
    times = np.arange(len(force)) / LABEL_HZ
    stride = PHYSICS_HZ // LABEL_HZ
    position = trace.position[::stride]
    pushing = touched & pushes(touched, body, np.linalg.norm(trace.velocity[::stride, :OBJECT_COUNT, :2], axis=2))
    struck = impacts.of_tip(AUDIBLE_M_S)
    objects = struck.body[:, 0]
    last, recent = last_touch(touched)
    colours = tuple(COLOURS)
    mass, colour = _classes(scene, "mass", MASSES), _classes(scene, "colour", colours)
    return (
        Label("tip_position", position[:, TIP], times, "mean", units="m"),
        Label("object_position", position[recent, body[last], :2], times[recent], "last", units="m"),
        Label("contact", touched.astype(np.int64), times, "max", ("none", "contact")),
        Label("contact_force", np.log10(force[touched]), times[touched], "max", units="log10 N"),
        Label("struck_material", _classes(scene, "material", MATERIALS)[objects], struck.time_s, "unique", MATERIALS),
        Label("object_mass", mass[body[pushing]], times[pushing], "unique", MASSES),
        Label("struck_colour", colour[objects], struck.time_s, "unique", colours),
    )  # fmt: skip


def last_touch(touched: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Periods that lie within HOLD_S of a touch, as (index of the last touch, index of the period)."""
    index = np.arange(len(touched))
    last = np.maximum.accumulate(np.where(touched, index, -len(touched)))
    recent = np.flatnonzero(index - last <= HOLD_S * LABEL_HZ)
    return last[recent], recent


def object_force(trace: Trace) -> tuple[np.ndarray, np.ndarray]:
    """Greatest normal force (N) of an object on the tip in each label period, and which object (0 where none)."""
    index, force = tip_contacts(trace)
    other = trace.contact_body[index].min(axis=1)
    mine = other < OBJECT_COUNT
    per_step = np.zeros((len(trace.joints), OBJECT_COUNT))
    np.add.at(per_step, (trace.contact_step[index][mine], other[mine]), force[mine, 0])
    periods = per_step.reshape(-1, PHYSICS_HZ // LABEL_HZ, OBJECT_COUNT).max(axis=1)
    return periods.max(axis=1), periods.argmax(axis=1)


def pushes(touched: np.ndarray, body: np.ndarray, speed: np.ndarray) -> np.ndarray:
    """(N,) bool: periods inside a run of contact with one moving object that lasts PUSH_S or more."""
    moving = touched & (speed[np.arange(len(body)), body] > PUSH_M_S)
    state = np.where(moving, body, -1)
    edges = np.flatnonzero(np.diff(state)) + 1
    runs = np.split(np.arange(len(state)), edges)
    kept = [run for run in runs if state[run[0]] >= 0 and len(run) >= PUSH_S * LABEL_HZ]
    push = np.zeros(len(state), bool)
    push[np.concatenate([np.zeros(0, int), *kept])] = True
    return push


def _classes(scene: Scene, field: str, names: tuple[str, ...]) -> np.ndarray:
    """(3,) class of each object."""
    return np.array([names.index(getattr(item, field)) for item in scene.objects], np.int64)
