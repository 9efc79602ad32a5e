"""Light, skin and sound of the tabletop world, each against something known without it."""

# pyright: reportAttributeAccessIssue=false
# (MuJoCo's compiled names come without type stubs.)

from dataclasses import replace

import mujoco
import numpy as np
import pytest

from multisense.sim.arm import HIGH_M, LOW_M, inverse_kinematics
from multisense.sim.impacts import Impacts, find_impacts
from multisense.sim.render import CAMERA_M, LOOK_AT_M, RayRenderer, pinhole_rays
from multisense.sim.scene import COLOURS, ObjectParameters, Scene, draw_scene
from multisense.sim.sound import (
    AUDIO_HZ,
    BETA_L,
    MATERIAL_TABLE,
    MICROPHONES_M,
    impulse_response,
    mode_decays,
    mode_frequencies,
    synthesise,
)
from multisense.sim.touch import feel, tip_contacts
from multisense.sim.world import COMMAND_HZ, PHYSICS_HZ, TIP, Trace, World

ITEM = ObjectParameters("red", "plain", "cylinder", "steel", "light", 0.03, 0.025, (0.0, 0.0), 0.0)
FAR = [
    replace(ITEM, colour="green", position_m=(-0.13, 0.13)),
    replace(ITEM, colour="blue", position_m=(-0.13, -0.13)),
]
SCENE = Scene((ITEM, *FAR), (0.0, 0.0), ())


def run(scene: Scene, path: np.ndarray) -> Trace:
    """The physics while the tip follows `path` (n, 3) at the command rate."""
    targets = inverse_kinematics(path)
    world = World(scene, targets[0])
    for _ in world.run(iter(targets), len(path) * PHYSICS_HZ // COMMAND_HZ):
        pass
    return world.trace()


def still(seconds: float = 1.0, **changes: np.ndarray) -> Trace:
    """A trace in which nothing happens."""
    trace = run(SCENE, np.repeat([[0.1, 0.1, HIGH_M]], int(seconds * COMMAND_HZ), axis=0))
    return replace(trace, **changes)


def test_the_arm_goes_where_its_inverse_kinematics_says() -> None:
    for place in ([0.15, 0.15, 0.09], [-0.15, -0.1, 0.09], [0.0, 0.16, 0.05]):
        world = World(SCENE, inverse_kinematics(np.array(place)))
        assert world.tip == pytest.approx(place, abs=1e-6)


# --- light


def test_an_object_shows_its_colour_where_it_stands() -> None:
    scene = replace(SCENE, objects=(replace(ITEM, position_m=(LOOK_AT_M[0], 0.0)), *FAR))
    world = World(scene, inverse_kinematics(np.array([0.1, 0.12, HIGH_M])))
    renderer = RayRenderer(world.model, world.data, scene, 64)
    frame, ids = renderer.render(world.data), renderer.geom_ids(world.data)
    assert ids[31, 31] == world.model.geom("object0").id
    shade = frame[31, 31] / np.array(COLOURS["red"])
    assert shade == pytest.approx(np.full(3, shade.mean()), rel=0.1)
    assert frame[0, 0].max() < 30


def test_the_camera_sees_left_as_left_and_far_as_up() -> None:
    world = World(SCENE, inverse_kinematics(np.array([0.1, 0.0, HIGH_M])))
    ids = RayRenderer(world.model, world.data, SCENE, 64).geom_ids(world.data)
    centres = [np.argwhere(ids == world.model.geom(f"object{i}").id).mean(axis=0) for i in range(3)]
    assert centres[1][1] > centres[0][1] + 5
    assert centres[2][1] < centres[0][1] - 5
    assert centres[1][0] < centres[0][0] - 5
    assert centres[2][0] < centres[0][0] - 5


def test_moving_and_still_geoms_together_look_as_one_cast() -> None:
    scene = draw_scene(0, 5)
    world = World(scene, inverse_kinematics(np.array([*scene.tip_m, HIGH_M])))
    ids = RayRenderer(world.model, world.data, scene, 48).geom_ids(world.data).ravel()
    seen, one = np.zeros(1, np.int32), np.empty_like(ids)
    for pixel, ray in enumerate(pinhole_rays(48)):
        mujoco.mj_ray(world.model, world.data, CAMERA_M, ray, None, 1, -1, seen, None)
        one[pixel] = seen[0]
    assert (ids == one).all()


def test_every_object_and_the_tip_are_seen() -> None:
    for index in range(5):
        scene = draw_scene(1, index)
        world = World(scene, inverse_kinematics(np.array([*scene.tip_m, HIGH_M])))
        ids = RayRenderer(world.model, world.data, scene, 64).geom_ids(world.data)
        seen = [(ids == world.model.geom(name).id).sum() for name in ("object0", "object1", "object2")]
        assert sorted(seen)[1] > 20


# --- skin


@pytest.mark.parametrize("heading", np.radians([0, 90, 180, -90, 45]))
def test_the_taxel_that_faces_the_object_feels_it(heading: float) -> None:
    direction = np.array([np.cos(heading), np.sin(heading), 0])
    goal, start = np.array([0, 0, LOW_M]), np.array([0, 0, LOW_M]) - 0.06 * direction
    progress = np.minimum(np.arange(40) / 20, 1)[:, None]
    trace = run(SCENE, start + progress * (goal - start))
    grid = feel(trace, np.random.default_rng(0))[..., 0].max(axis=0)
    yaw = trace.joints[-1, :2].sum()
    azimuth = np.radians(-150 + 60 * np.arange(6))[grid.sum(axis=0).argmax()]
    assert np.cos(azimuth - (heading - yaw)) > np.cos(np.radians(50))


def test_a_poke_from_above_is_felt_at_the_bottom() -> None:
    down = np.linspace(HIGH_M, 0.072, 30)
    trace = run(SCENE, np.stack([0 * down, 0 * down, down], axis=1))
    rows = feel(trace, np.random.default_rng(0))[..., 0].max(axis=0).sum(axis=1)
    assert rows.argmax() == 0
    assert rows[0] > 10 * rows[3]


def test_the_taxels_share_out_the_force_and_nothing_else() -> None:
    # On to the wall, against which the object is pressed.
    path = np.stack([np.linspace(-0.08, 0.13, 200), np.zeros(200), np.full(200, LOW_M)], axis=1)
    trace = run(SCENE, path)
    _index, force = tip_contacts(trace)
    impulse = force[:, 0].sum() / PHYSICS_HZ
    felt = feel(trace, np.random.default_rng(0))[..., 0].sum() / 250
    assert impulse > 1
    assert felt == pytest.approx(impulse, rel=0.05)


def test_shear_points_around_and_up_the_finger() -> None:
    # An object in front (+x) of a finger at yaw 0 pushes it back with 2 N, to the left with .25 N, up with .5 N.
    trace = still(
        contact_step=np.array([10]),
        contact_body=np.array([[0, TIP]]),
        contact_point=np.array([[0.01, 0, 0.03]]),
        contact_frame=np.array([[[-1.0, 0, 0], [0, 0, 1], [0, 1, 0]]]),
        contact_force=np.array([[2.0, 0.5, 0.25]]),
        joints=np.zeros((500, 9)),
    )
    assert tip_contacts(trace)[1][0] == pytest.approx([2.0, 0.25, 0.5])


def test_a_heavy_object_pushes_back_more() -> None:
    path = np.stack([np.linspace(-0.08, 0.08, 100), np.zeros(100), np.full(100, LOW_M)], axis=1)
    mean = {}
    for mass in ("light", "heavy"):
        trace = run(replace(SCENE, objects=(replace(ITEM, mass=mass), *FAR)), path)
        mean[mass] = tip_contacts(trace)[1][:, 0].sum()
    assert mean["heavy"] > 2.5 * mean["light"]


# --- sound


def test_bar_modes_solve_the_free_free_bar() -> None:
    assert np.cos(BETA_L) == pytest.approx(1 / np.cosh(BETA_L), abs=1e-12)
    assert BETA_L[:4] == pytest.approx([4.73004, 7.85320, 10.99561, 14.13717], abs=1e-5)


@pytest.mark.parametrize(
    ("name", "modes_hz"),
    [("steel", [2562, 7062]), ("ceramic", [2621]), ("wood", [1944, 5358]), ("plastic", [581, 1600, 3138, 5187])],
)
def test_modes_of_a_nine_centimetre_bar(name: str, modes_hz: list[float]) -> None:
    bar = replace(MATERIAL_TABLE[name], wall_m=0.004)
    assert mode_frequencies(bar, 0.09)[: len(modes_hz)] == pytest.approx(modes_hz, rel=0.005)


@pytest.mark.parametrize(("name", "t60_s"), [("ceramic", 0.42), ("wood", 0.04), ("plastic", 0.3)])
def test_decay_times(name: str, t60_s: float) -> None:
    bar = replace(MATERIAL_TABLE[name], wall_m=0.004)
    decay = mode_decays(bar, mode_frequencies(bar, 0.09))[0]
    assert np.log(1000) / decay == pytest.approx(t60_s, rel=0.35)


def test_a_response_rings_at_its_lowest_mode_and_dies_as_said() -> None:
    item = replace(ITEM, material="ceramic")
    response = impulse_response(item, np.array([1.0, 0, 0, 0, 0, 0]), 1.0)
    spectrum = np.abs(np.fft.rfft(response))
    mode = mode_frequencies(MATERIAL_TABLE["ceramic"], 2.5 * item.radius_m)[0]
    assert abs(spectrum.argmax() - mode) < 2
    energy = np.cumsum(response[::-1] ** 2)[::-1]
    level = 10 * np.log10(energy[[0, 1600]] / energy[0])
    decay = mode_decays(MATERIAL_TABLE["ceramic"], np.array([mode]))[0]
    assert level[1] - level[0] == pytest.approx(-20 * np.log10(np.e) * decay * 0.1, rel=0.05)


def test_sound_reaches_the_nearer_microphone_first_and_louder() -> None:
    point = np.array([0.02, 0.12, 0.03])
    impact = Impacts(np.array([0.3]), np.array([[0, TIP]]), point[None], np.array([0.5]))
    left, right = synthesise(still(), impact, SCENE, np.random.default_rng(0)).T.astype(float)
    ways = np.linalg.norm(MICROPHONES_M - point, axis=1)
    # Twenty times finer than the samples.
    spectrum = np.fft.rfft(left, 2**15) * np.conj(np.fft.rfft(right, 2**15))
    lag = np.fft.irfft(spectrum, 2**15 * 20)
    lead = np.argmax(np.concatenate([lag[-1000:], lag[:1000]])) - 1000
    assert lead / (20 * AUDIO_HZ) == pytest.approx((ways[0] - ways[1]) / 343, abs=2e-5)
    assert np.abs(right).max() / np.abs(left).max() == pytest.approx(ways[0] / ways[1], rel=0.1)
    onset = np.flatnonzero(np.abs(right) > 0.3 * np.abs(right).max())[0] / AUDIO_HZ
    assert onset == pytest.approx(0.3 + ways[1] / 343, abs=1e-3)


def test_an_impact_is_found_when_and_as_fast_as_it_was() -> None:
    speed = 0.2
    xs = -0.12 + speed / COMMAND_HZ * np.arange(1, 40)
    trace = run(SCENE, np.stack([xs, 0 * xs, np.full(39, LOW_M)], axis=1))
    impacts = find_impacts(trace).of_tip(0.05)
    assert len(impacts.time_s) == 1
    assert impacts.speed[0] == pytest.approx(speed, rel=0.1)
    met = np.interp(-0.03 - 0.01, trace.position[:, TIP, 0], trace.times_s)
    assert impacts.time_s[0] == pytest.approx(met, abs=2 / PHYSICS_HZ)
