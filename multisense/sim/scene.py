"""What a tabletop log is made of: every drawn parameter, and nothing that needs physics.

Look (colour, texture), material (sound), mass, shape and size are drawn independently, so that each can be told only by
the senses that truly carry it. A scene is a pure function of (seed, index).
"""

from dataclasses import asdict, dataclass

import numpy as np

MATERIALS = ("steel", "ceramic", "wood", "plastic", "rubber")
SHAPES = ("box", "cylinder", "pebble")
TEXTURES = ("plain", "banded")
MASSES = ("light", "heavy")
MASS_KG = (0.2, 0.8)
COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.90, 0.12, 0.10),
    "green": (0.10, 0.70, 0.15),
    "blue": (0.12, 0.25, 0.95),
    "yellow": (0.98, 0.88, 0.10),
    "magenta": (0.85, 0.15, 0.80),
    "cyan": (0.10, 0.85, 0.90),
}
PRIMITIVES = ("push", "strike", "poke", "sweep")
"""A sweep moves like a push where nothing stands, so that neither pose nor motion of the arm tells a contact."""
SPEEDS_M_S = {"push": (0.16, 0.22), "strike": (0.25, 0.80), "poke": (0.12, 0.40), "sweep": (0.16, 0.50)}
OBJECT_COUNT = 3
TABLE_M = 0.18
"""Half side of the square table; it is centred on the origin, its top is z = 0."""
START_M = 0.135
"""Objects start with |x|, |y| below this."""


@dataclass(frozen=True)
class ObjectParameters:
    colour: str
    texture: str
    shape: str
    material: str
    mass: str
    radius_m: float
    """Half width of the footprint."""
    half_height_m: float
    position_m: tuple[float, float]
    yaw_rad: float


@dataclass(frozen=True)
class Primitive:
    kind: str
    target: int
    """Index of the object; a sweep has none in fact."""
    speed_m_s: float
    """Push and sweep: mean speed of the stroke; strike and poke: speed wanted at contact."""
    pause_s: float
    """Rest before the primitive begins."""


@dataclass(frozen=True)
class Scene:
    objects: tuple[ObjectParameters, ...]
    tip_m: tuple[float, float]
    """Where the raised fingertip starts."""
    primitives: tuple[Primitive, ...]

    def as_dict(self) -> dict:
        return asdict(self)


def streams_of_randomness(seed: int, index: int) -> dict[str, np.random.Generator]:
    """Independent generators of log `index`: drawing more from one never shifts another."""
    names = ("scene", "script", "touch", "arm", "sound", "clock")
    children = np.random.SeedSequence(seed, spawn_key=(index,)).spawn(len(names))
    return {name: np.random.default_rng(child) for name, child in zip(names, children, strict=True)}


def draw_scene(seed: int, index: int) -> Scene:
    """The scene of log `index` of the data set `seed`."""
    rng = streams_of_randomness(seed, index)["scene"]
    colours = rng.permutation(list(COLOURS))[:OBJECT_COUNT]
    positions = _scatter(rng, OBJECT_COUNT)
    objects = tuple(_draw_object(rng, str(c), p) for c, p in zip(colours, positions, strict=True))
    tip = rng.uniform(-START_M, START_M, 2)
    return Scene(objects, (float(tip[0]), float(tip[1])), _draw_primitives(rng))


def _draw_object(rng: np.random.Generator, colour: str, position_m: np.ndarray) -> ObjectParameters:
    return ObjectParameters(
        colour=colour,
        texture=str(rng.choice(TEXTURES)),
        shape=str(rng.choice(SHAPES)),
        material=str(rng.choice(MATERIALS)),
        mass=str(rng.choice(MASSES)),
        radius_m=float(rng.uniform(0.024, 0.034)),
        half_height_m=float(rng.uniform(0.020, 0.027)),
        position_m=(float(position_m[0]), float(position_m[1])),
        yaw_rad=float(rng.uniform(-np.pi, np.pi)),
    )


def _scatter(rng: np.random.Generator, count: int, apart_m: float = 0.10) -> np.ndarray:
    """(count, 2) places on the table, no two closer than `apart_m`: rejection keeps each uniform given the others."""
    while True:
        places = rng.uniform(-START_M, START_M, (count, 2))
        gaps = np.linalg.norm(places[:, None] - places[None], axis=-1)
        if gaps[np.triu_indices(count, 1)].min() > apart_m:
            return places


def _draw_primitives(rng: np.random.Generator, count: int = 8) -> tuple[Primitive, ...]:
    """More than a scene has time for; a script plays as many as fit.

    Sweeps come in runs, so that about a third of 2 s windows hold no contact; the other kinds often stay with an
    object, so that many windows hold strikes on one object only.
    """
    primitives: list[Primitive] = []
    sweep_probability, target = 0.38, int(rng.integers(OBJECT_COUNT))
    for _ in range(count):
        kind = "sweep" if rng.random() < sweep_probability else str(rng.choice(PRIMITIVES[:3], p=(0.6, 0.28, 0.12)))
        sweep_probability = 0.55 if kind == "sweep" else 0.30
        target = target if rng.random() < 0.5 else int(rng.integers(OBJECT_COUNT))
        speed = float(rng.uniform(*SPEEDS_M_S[kind]))
        primitives.append(Primitive(kind, target, speed, float(rng.uniform(0.0, 0.5))))
    return tuple(primitives)
