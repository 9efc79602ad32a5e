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
APART_S = 0.6
"""`object_position` begins so long after the object was touched last, while it slides on: where to, the arm cannot know."""
SLIDING_M_S = 0.02
PUSH_S = 0.10


def label_trace(trace: Trace, impacts: Impacts, scene: Scene) -> tuple[Label, ...]:
    """The seven labels of a log, on the simulator's true time."""
    peak, mean, body = object_force(trace)
    touched = peak > TOUCHING_N
    times = np.arange(len(touched)) / LABEL_HZ
    stride = PHYSICS_HZ // LABEL_HZ
    position = trace.position[::stride]
    sliding = np.linalg.norm(trace.velocity[::stride, :OBJECT_COUNT, :2], axis=2) > SLIDING_M_S
    pushing = touched & pushes(touched, body, sliding)
    last, free = sliding_free(touched, body, sliding)
    struck = impacts.of_tip(AUDIBLE_M_S)
    objects = struck.body[:, 0]
    colours = tuple(COLOURS)
    mass, colour = _classes(scene, "mass", MASSES), _classes(scene, "colour", colours)
    return (
        Label("tip_position", position[:, TIP], times, "mean", units="m"),
        Label("object_position", position[free, body[last], :2], times[free], "last", units="m"),
        Label("contact", touched.astype(np.int64), times, "max", ("none", "contact")),
        Label("contact_force", np.log10(mean[touched]), times[touched], "max", units="log10 N"),
        Label("struck_material", _classes(scene, "material", MATERIALS)[objects], struck.time_s, "unique", MATERIALS),
        Label("object_mass", mass[body[pushing]], times[pushing], "unique", MASSES),
        Label("struck_colour", colour[objects], struck.time_s, "unique", colours),
    )  # fmt: skip


def sliding_free(touched: np.ndarray, body: np.ndarray, sliding: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Periods in which the object touched last slides, free of the tip for APART_S: (index of the touch, of the period)."""
    index = np.arange(len(touched))
    last = np.maximum.accumulate(np.where(touched, index, -1))
    free = np.flatnonzero((last >= 0) & (index - last >= APART_S * LABEL_HZ) & sliding[index, body[last]])
    return last[free], free


def object_force(trace: Trace) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Per label period: peak and mean normal force (N) on the tip of the object that presses most, and which one it is
    (0 where none)."""
    index, force = tip_contacts(trace)
    other = trace.contact_body[index].min(axis=1)
    mine = other < OBJECT_COUNT
    per_step = np.zeros((len(trace.joints), OBJECT_COUNT))
    np.add.at(per_step, (trace.contact_step[index][mine], other[mine]), force[mine, 0])
    periods = per_step.reshape(-1, PHYSICS_HZ // LABEL_HZ, OBJECT_COUNT)
    body = periods.max(axis=1).argmax(axis=1)
    of_body = periods[np.arange(len(body)), :, body]
    return of_body.max(axis=1), of_body.mean(axis=1), body


def pushes(touched: np.ndarray, body: np.ndarray, sliding: np.ndarray) -> np.ndarray:
    """(N,) bool: periods inside a run of contact with one sliding object that lasts PUSH_S or more."""
    moving = touched & sliding[np.arange(len(body)), body]
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
