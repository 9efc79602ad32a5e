"""Record the tabletop world live, as one records a robot:
`python tools/record_tabletop.py run.h5 --seconds 10 --real-time`, while `multisense info run.h5` looks on.

Camera, arm and commands are appended as the physics steps. Touch and sound are worked out from the whole run, so they
are appended when it ends.
"""

import argparse
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import numpy as np

from multisense.logs.recorder import LogWriter
from multisense.sim.arm import HIGH_M, commands, inverse_kinematics
from multisense.sim.impacts import find_impacts
from multisense.sim.render import RayRenderer
from multisense.sim.scene import Scene, draw_scene, streams_of_randomness
from multisense.sim.simulate import ARM_HZ, ARM_NOISE, JOINT_CHANNELS, JOINT_UNITS, VIDEO_HZ
from multisense.sim.sound import AUDIO_HZ, synthesise
from multisense.sim.touch import CHANNELS, COLUMNS, ROWS, TOUCH_HZ, feel
from multisense.sim.world import COMMAND_HZ, PHYSICS_HZ, Trace, World

SOUND_BLOCK = AUDIO_HZ // 10


def declare(log: LogWriter, size: int) -> None:
    joints, stereo = JOINT_CHANNELS, ("left", "right")
    log.add_sensor("camera", "video", VIDEO_HZ, (size, size, 3), "uint8", media="camera.mp4")
    log.add_sensor("mic", "audio", AUDIO_HZ, (2,), "float32", "full scale", stereo)
    log.add_sensor("fingertip", "touch", TOUCH_HZ, (ROWS, COLUMNS, 3), "float32", "N", CHANNELS)
    log.add_sensor("arm", "proprio", ARM_HZ, (len(joints),), "float32", JOINT_UNITS, joints)
    log.add_sensor("action", "proprio", COMMAND_HZ, (3,), "float32", "rad, rad, m", joints[:3])


def live(log: LogWriter, scene: Scene, seconds: float, size: int, rng: dict, is_paced: bool) -> Trace:
    """Step the world and append what it shows; `is_paced` waits for the clock on the wall."""
    world = World(scene, inverse_kinematics(np.array([*scene.tip_m, HIGH_M])))
    renderer = RayRenderer(world.model, world.data, scene, size)
    script = heard(log, commands(scene, lambda: world.object_xy, rng["script"], seconds))
    began = time.monotonic()
    for step in world.run(script, round(seconds * PHYSICS_HZ)):
        now = step / PHYSICS_HZ
        if step % (PHYSICS_HZ // ARM_HZ) == 0:
            log.append("arm", world.data.sensordata[:9] + rng["arm"].normal(0, 1, 9) * ARM_NOISE, now)
        if step % (PHYSICS_HZ // VIDEO_HZ) == 0:
            log.append("camera", renderer.render(world.data), now)
        if is_paced:
            time.sleep(max(0.0, began + now - time.monotonic()))
    return world.trace()


def heard(log: LogWriter, script: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    for number, target in zip(count(), script):
        log.append("action", target, number / COMMAND_HZ)
        yield target


def record(path: Path, seconds: float, seed: int, index: int, size: int, is_paced: bool) -> None:
    rng, scene = streams_of_randomness(seed, index), draw_scene(seed, index)
    with LogWriter(path, source="tabletop, live", attributes={"seed": seed, "index": index}, patience_s=60) as log:
        declare(log, size)
        trace = live(log, scene, seconds, size, rng, is_paced)
        skin = feel(trace, rng["touch"])
        log.append("fingertip", skin, np.arange(len(skin)) / TOUCH_HZ)
        sound = synthesise(trace, find_impacts(trace), scene, rng["sound"])
        for first in range(0, len(sound), SOUND_BLOCK):
            log.append("mic", sound[first : first + SOUND_BLOCK], first / AUDIO_HZ)
        log.flush()
        for name, stats in log.stats.items():
            print(f"{name}: {stats.flushed} samples, longest wait {1000 * stats.longest_wait_s:.1f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="the log to write (.h5)")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--index", type=int, default=0, help="which scene of the seed")
    parser.add_argument("--size", type=int, default=64, help="side of the frames in pixels")
    parser.add_argument("--real-time", action="store_true", help="as slow as the world; otherwise as fast as it goes")
    given = parser.parse_args()
    record(given.out, given.seconds, given.seed, given.index, given.size, given.real_time)


if __name__ == "__main__":
    main()
