"""The table, the arm and the objects as a MuJoCo model, and the run of its physics.

The arm is a SCARA: shoulder and elbow turn about vertical axes, a quill lifts the finger. It lies above the table, so
only the fingertip meets objects; contacts of its links are off.
"""

# pyright: reportAttributeAccessIssue=false
# (MuJoCo's compiled names come without type stubs.)

from collections.abc import Iterator
from dataclasses import dataclass

import mujoco
import numpy as np

from multisense.sim.scene import COLOURS, MASS_KG, MASSES, OBJECT_COUNT, TABLE_M, ObjectParameters, Scene

PHYSICS_HZ = 500
COMMAND_HZ = 50
BASE_M = (-0.30, 0.0, 0.21)
LINK_M = 0.27
TIP_RADIUS_M = 0.010
TIP_HALF_LENGTH_M = 0.015
"""The fingertip is an upright capsule; its centre is 'the tip'."""
LIFT_M = (0.024, 0.105)
"""Range of the height of the tip's centre."""
FRICTION = 0.01
"""Of objects on the table and at its walls, which are springy: once touched they slide and bounce on, to where
the arm cannot know."""
WALL_SOLREF = "0.02 0.1"
TIP, WALL = OBJECT_COUNT, OBJECT_COUNT + 1
"""Bodies are numbered 0, 1, 2 for the objects, then these."""

_SHAPE_GEOMS = {
    "box": 'type="box" size="{r} {r} {h}"',
    "cylinder": 'type="cylinder" size="{r} {h}"',
    "pebble": 'type="ellipsoid" size="{r} {r} {h}" condim="6" friction="{f} .002 .002"',
}


def _object_xml(number: int, item: ObjectParameters) -> str:
    size = _SHAPE_GEOMS[item.shape].format(r=item.radius_m, h=item.half_height_m, f=FRICTION)
    x, y = item.position_m
    red, green, blue = COLOURS[item.colour]
    return f"""
    <body name="object{number}" pos="{x} {y} {item.half_height_m}" euler="0 0 {item.yaw_rad}">
      <freejoint/>
      <geom name="object{number}" {size} mass="{MASS_KG[MASSES.index(item.mass)]}" rgba="{red} {green} {blue} 1"/>
    </body>"""


def _walls_xml(half: float = TABLE_M, height: float = 0.018, thickness: float = 0.006) -> str:
    place = half + thickness
    long, sides = half + 2 * thickness, ((place, 0), (-place, 0), (0, place), (0, -place))
    return "".join(
        f'<geom name="wall{i}" type="box" pos="{x} {y} {height}" rgba=".42 .36 .30 1" solref="{WALL_SOLREF}" priority="1" '
        f'size="{thickness if x else long} {thickness if y else long} {height}"/>'
        for i, (x, y) in enumerate(sides)
    )


def build_model(scene: Scene) -> mujoco.MjModel:
    """The scene as a compiled model: 500 Hz, elliptic friction cones (so that a contact's force is read off its rows).

    A body has one geom: `mj_multiRay` misses parts of a second one that takes no part in collisions (MuJoCo 4.0.1).
    """
    x, y, z = BASE_M
    low, high = LIFT_M
    observed = "".join(
        f'<framepos objtype="body" objname="object{i}"/><framelinvel objtype="body" objname="object{i}"/>'
        f'<frameangvel objtype="body" objname="object{i}"/>'
        for i in range(OBJECT_COUNT)
    )
    joints = ("shoulder", "elbow", "lift")
    senses = "".join(f'<{kind} joint="{j}"/>' for kind in ("jointpos", "jointvel") for j in joints)
    torques = "".join(f'<actuatorfrc actuator="{j}"/>' for j in joints)
    link = f'type="capsule" fromto="0 0 0 {LINK_M} 0 0" size=".011" rgba=".30 .32 .36 1"'
    return mujoco.MjModel.from_xml_string(f"""
<mujoco>
  <compiler angle="radian"/>
  <option timestep="{1 / PHYSICS_HZ}" cone="elliptic" integrator="implicitfast"/>
  <default><geom friction="{FRICTION} .002 .0001" solref=".006 1"/></default>
  <worldbody>
    <geom name="table" type="plane" size="{TABLE_M} {TABLE_M} .1" rgba=".62 .58 .52 1"/>{_walls_xml()}
    <geom type="cylinder" pos="{x} {y} {z / 2}" size=".025 {z / 2}" rgba=".30 .32 .36 1" contype="0" conaffinity="0"/>
    <body pos="{x} {y} {z}" gravcomp="1">
      <joint name="shoulder" axis="0 0 1" damping=".05" armature=".01" frictionloss=".01"/>
      <geom {link} mass=".15" contype="0" conaffinity="0"/>
      <body pos="{LINK_M} 0 0" gravcomp="1">
        <joint name="elbow" axis="0 0 1" damping=".05" armature=".01" frictionloss=".01"/>
        <geom {link} mass=".1" contype="0" conaffinity="0"/>
        <body name="tip" pos="{LINK_M} 0 {-z}" gravcomp="1">
          <joint name="lift" type="slide" axis="0 0 1" range="{low - 0.01} {high + 0.02}" damping="2" armature=".05"/>
          <geom name="tip" type="capsule" size="{TIP_RADIUS_M} {TIP_HALF_LENGTH_M}" mass=".05" friction=".3 .002 .0001"
                rgba=".97 .97 .97 1"/>
          <body pos="0 0 .1" gravcomp="1">
            <geom type="cylinder" size=".005 .1" mass=".05" rgba=".55 .57 .6 1" contype="0" conaffinity="0"/>
          </body>
        </body>
      </body>
    </body>{"".join(_object_xml(i, item) for i, item in enumerate(scene.objects))}
  </worldbody>
  <actuator>
    <position name="shoulder" joint="shoulder" kp="80" kv="5"/>
    <position name="elbow" joint="elbow" kp="50" kv="2"/>
    <position name="lift" joint="lift" kp="1500" kv="40"/>
  </actuator>
  <sensor>{senses}{torques}
    <framepos objtype="body" objname="tip"/><framelinvel objtype="body" objname="tip"/>{observed}
  </sensor>
</mujoco>""")


@dataclass(frozen=True, repr=False)
class Trace:
    """What the physics did: S steps, and K contacts (those of the table's top left out). SI units, world frame."""

    joints: np.ndarray
    """(S, 9) position, velocity, torque of shoulder, elbow (rad, N m) and lift (m, N)."""
    commands: np.ndarray
    """(S // 10, 3) joint targets."""
    position: np.ndarray
    """(S, 4, 3) of the objects and the tip, as are the next two."""
    velocity: np.ndarray
    spin: np.ndarray
    contact_step: np.ndarray
    """(K,) index of the step."""
    contact_body: np.ndarray
    """(K, 2) bodies by number."""
    contact_point: np.ndarray
    """(K, 3)"""
    contact_frame: np.ndarray
    """(K, 3, 3) rows: normal from the first body to the second, then two tangents."""
    contact_force: np.ndarray
    """(K, 3) on the second body, along the rows of the frame."""
    contact_depth: np.ndarray
    """(K,) penetration at the step, positive inside."""

    @property
    def times_s(self) -> np.ndarray:
        return np.arange(len(self.joints)) / PHYSICS_HZ


class World:
    """One scene's physics, stepped from start to end; after a step `data` shows the state that the step began with."""

    def __init__(self, scene: Scene, start: np.ndarray) -> None:
        """`start` (3,) is the arm's first joint position."""
        self.model = build_model(scene)
        self.data = mujoco.MjData(self.model)
        self.data.qpos[:3] = start
        mujoco.mj_forward(self.model, self.data)
        # Group 0 stands still, group 1 moves: the renderer looks for them apart.
        self.model.geom_group[:] = self.model.geom_bodyid > 0
        self._table = self.model.geom("table").id
        self._numbers = np.full(self.model.ngeom, WALL)
        for number, name in enumerate([f"object{i}" for i in range(OBJECT_COUNT)] + ["tip"]):
            self._numbers[self.model.geom(name).id] = number
        self._contacts: list[tuple[np.ndarray, ...]] = []

    @property
    def object_xy(self) -> np.ndarray:
        """(3, 2) where the objects are now, m."""
        return np.array([self.data.body(f"object{i}").xpos[:2] for i in range(OBJECT_COUNT)])

    @property
    def tip(self) -> np.ndarray:
        """(3,) where the tip is now, m."""
        return self.data.body("tip").xpos.copy()

    def run(self, commands: Iterator[np.ndarray], steps: int) -> Iterator[int]:
        """Step `steps` times; yields each step's index after it, so that the caller can look. Then see `trace()`."""
        ratio = PHYSICS_HZ // COMMAND_HZ
        self._rows = np.empty((steps, self.model.nsensordata))
        self._commands = []
        previous = target = self.data.qpos[:3].copy()
        for step in range(steps):
            if step % ratio == 0:
                previous, target = target, next(commands)
                self._commands.append(target)
            # Servos interpolate between commands; a staircase would shake the arm and its torques.
            self.data.ctrl[:] = previous + (target - previous) * ((step % ratio + 1) / ratio)
            mujoco.mj_step(self.model, self.data)
            self._rows[step] = self.data.sensordata
            self._record_contacts(step)
            yield step

    def _record_contacts(self, step: int) -> None:
        contact = self.data.contact
        keep = (contact.geom[:, 0] != self._table) & (contact.efc_address >= 0)
        if keep.any():
            rows = contact.efc_address[keep, None] + np.arange(3)
            self._contacts.append((
                np.full(len(rows), step),
                contact.geom[keep],
                contact.pos[keep],
                contact.frame[keep],
                self.data.efc_force[rows],
                -contact.dist[keep],
            ))  # fmt: skip

    def trace(self) -> Trace:
        bodies = self._rows[:, 9:]
        tip = np.concatenate([bodies[:, :6], np.zeros((len(bodies), 3))], axis=1)
        moves = np.concatenate([bodies[:, 6:], tip], axis=1).reshape(len(bodies), OBJECT_COUNT + 1, 3, 3)
        empty = (
            np.zeros(0, int),
            np.zeros((0, 2), int),
            np.zeros((0, 3)),
            np.zeros((0, 9)),
            np.zeros((0, 3)),
            np.zeros(0),
        )
        steps, geoms, points, frames, forces, depths = (
            np.concatenate([none] + [contacts[i] for contacts in self._contacts]) for i, none in enumerate(empty)
        )
        return Trace(
            joints=self._rows[:, :9],
            commands=np.array(self._commands),
            position=moves[:, :, 0],
            velocity=moves[:, :, 1],
            spin=moves[:, :, 2],
            contact_step=steps,
            contact_body=self._numbers[geoms.astype(int)],
            contact_point=points,
            contact_frame=frames.reshape(-1, 3, 3),
            contact_force=forces,
            contact_depth=depths,
        )
