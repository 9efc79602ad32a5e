"""What is drawn: each factor uniform and independent of every other."""

from itertools import combinations

import numpy as np
import pytest
from scipy.stats import chi2, chisquare
from sklearn.metrics import mutual_info_score

from multisense.sim.scene import COLOURS, MASSES, MATERIALS, OBJECT_COUNT, SHAPES, START_M, TEXTURES, draw_scene

SCENES = [draw_scene(3, index) for index in range(300)]
OBJECTS = [item for scene in SCENES for item in scene.objects]


def factors() -> dict[str, np.ndarray]:
    """Every drawn property of the objects as classes, sizes and places by halves."""
    named = {
        field: np.unique([getattr(item, field) for item in OBJECTS], return_inverse=True)[1]
        for field in ("colour", "texture", "shape", "material", "mass")
    }
    numbers = {
        "radius": [item.radius_m for item in OBJECTS],
        "height": [item.half_height_m for item in OBJECTS],
        "x": [item.position_m[0] for item in OBJECTS],
        "y": [item.position_m[1] for item in OBJECTS],
    }
    return named | {key: (np.array(value) > np.median(value)).astype(int) for key, value in numbers.items()}


FACTORS = factors()


@pytest.mark.parametrize(("one", "two"), list(combinations(FACTORS, 2)))
def test_factors_are_independent(one: str, two: str) -> None:
    information = mutual_info_score(FACTORS[one], FACTORS[two])
    freedom = FACTORS[one].max() * FACTORS[two].max()
    # Wilks: 2 N MI is chi-squared where there is no dependence. 36 pairs are looked at.
    assert chi2.sf(2 * len(OBJECTS) * information, freedom) > 1e-3


@pytest.mark.parametrize(
    ("field", "names"),
    [("colour", COLOURS), ("texture", TEXTURES), ("shape", SHAPES), ("material", MATERIALS), ("mass", MASSES)],
)
def test_factors_are_balanced(field: str, names: tuple[str, ...]) -> None:
    counts = [sum(getattr(item, field) == name for item in OBJECTS) for name in names]
    assert sum(counts) == len(OBJECTS)
    assert chisquare(counts)[1] > 1e-3


def test_primitives_tell_nothing_of_the_object() -> None:
    pairs = [(s.objects[p.target], p.kind) for s in SCENES for p in s.primitives[:1]]
    for field in ("material", "mass", "colour"):
        assert mutual_info_score([getattr(item, field) for item, _ in pairs], [kind for _, kind in pairs]) < 0.05


def test_a_scene_has_three_colours_and_room_between_objects() -> None:
    for scene in SCENES:
        assert len({item.colour for item in scene.objects}) == OBJECT_COUNT
        places = np.array([item.position_m for item in scene.objects])
        assert np.abs(places).max() < START_M
        for one, two in combinations(range(OBJECT_COUNT), 2):
            reach = 2**0.5 * (scene.objects[one].radius_m + scene.objects[two].radius_m)
            assert np.linalg.norm(places[one] - places[two]) > reach


def test_a_scene_is_a_function_of_seed_and_index() -> None:
    assert draw_scene(3, 7) == SCENES[7]
    assert len({str(scene) for scene in SCENES}) == len(SCENES)
    assert draw_scene(4, 7) != SCENES[7]
