"""One log, or a folder of them, simulated."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from multisense.logs.native import Recording, write_log
from multisense.logs.parallel import each
from multisense.sim.arm import HIGH_M, commands, inverse_kinematics
from multisense.sim.clocks import ClockFault, apply_fault, describe
from multisense.sim.impacts import find_impacts
from multisense.sim.labels import label_trace
from multisense.sim.render import RayRenderer
from multisense.sim.scene import Scene, draw_scene, streams_of_randomness
from multisense.sim.sound import AUDIO_HZ, synthesise
from multisense.sim.touch import CHANNELS, TOUCH_HZ, feel
from multisense.sim.world import COMMAND_HZ, PHYSICS_HZ, Trace, World
from multisense.types import Label

VERSION = 3
"""Raised when the same seed makes other data."""
VIDEO_HZ = 20
ARM_HZ = 250
SENSORS = ("camera", "mic", "fingertip", "arm", "action")
JOINT_CHANNELS = tuple(
    f"{joint}_{what}" for what in ("position", "velocity", "torque") for joint in ("shoulder", "elbow", "lift")
)
JOINT_UNITS = "rad, rad, m; rad/s, rad/s, m/s; N m, N m, N"
ARM_NOISE = np.array([2e-4, 2e-4, 5e-5, 2e-3, 2e-3, 5e-4, 0.01, 0.01, 0.05])
GEAR_TORQUE = np.array([0.05, 0.04, 0.5])
GEAR_S = 0.2
"""Friction and cogging of the gears, which a torque read from motor currents cannot tell from a contact: deviation
(N m, N m, N) and correlation time."""


@dataclass(frozen=True, repr=False)
class Simulation:
    """One simulated log in memory."""

    recordings: dict[str, Recording]
    labels: tuple[Label, ...]
    scene: Scene
    attributes: dict[str, str | float | int]
    """Written beside the data: simulator, seed, index, seconds, size; the scene and the clock faults as JSON."""


def simulate_log(
    seed: int, index: int, seconds: float = 4.0, size: int = 64, faults: Mapping[str, ClockFault] | None = None
) -> Simulation:
    """Log `index` of data set `seed`, a pure function of its arguments; faults change stamps, never the truth.

    `size` is the side of the frames in pixels. Raises ValueError for a length that is no multiple of 0.1 s, an odd
    size, or a fault of a sensor that is not there.
    """
    faults = faults or {}
    _check(seconds, size, faults)
    rng = streams_of_randomness(seed, index)
    scene = draw_scene(seed, index)
    trace, frames = _run(scene, seconds, size, rng["script"])
    impacts = find_impacts(trace)
    recordings = {
        "camera": _sampled("video", VIDEO_HZ, frames, media="camera.mp4"),
        "mic": _audio(synthesise(trace, impacts, scene, rng["sound"])),
        "fingertip": _sampled("touch", TOUCH_HZ, feel(trace, rng["touch"]), "N", CHANNELS),
        "arm": _sampled("proprio", ARM_HZ, _read_joints(trace, rng["arm"]), JOINT_UNITS, JOINT_CHANNELS),
        "action": _sampled("proprio", COMMAND_HZ, trace.commands.astype(np.float32), "rad, rad, m", JOINT_CHANNELS[:3]),
    }  # fmt: skip
    for sensor, fault in sorted(faults.items()):
        recordings[sensor] = apply_fault(recordings[sensor], fault, rng["clock"])
    attributes = {
        "simulator": VERSION, "seed": seed, "index": index, "seconds": seconds, "size": size,
        "parameters": json.dumps(scene.as_dict()), "clock_faults": json.dumps(describe(faults)),
    }  # fmt: skip
    return Simulation(recordings, label_trace(trace, impacts, scene), scene, attributes)


def _check(seconds: float, size: int, faults: Mapping[str, ClockFault]) -> None:
    if seconds < 1 or abs(seconds * 10 - round(seconds * 10)) > 1e-9:
        raise ValueError(f"seconds: found {seconds}; expected a multiple of 0.1, at least 1")
    if size < 16 or size % 2:
        raise ValueError(f"size: found {size}; expected an even number of pixels, at least 16")
    unknown = sorted(set(faults) - set(SENSORS))
    if unknown:
        raise ValueError(f"clock faults: no sensor {unknown} in this world; it has {', '.join(SENSORS)}")


def _run(scene: Scene, seconds: float, size: int, rng: np.random.Generator) -> tuple[Trace, np.ndarray]:
    """The physics, and (N, size, size, 3) frames taken on its way."""
    world = World(scene, inverse_kinematics(np.array([*scene.tip_m, HIGH_M])))
    renderer = RayRenderer(world.model, world.data, scene, size)
    script = commands(scene, lambda: world.object_xy, rng, seconds)
    each = PHYSICS_HZ // VIDEO_HZ
    frames = [
        renderer.render(world.data) for step in world.run(script, round(seconds * PHYSICS_HZ)) if step % each == 0
    ]
    return world.trace(), np.stack(frames)


def _read_joints(trace: Trace, rng: np.random.Generator) -> np.ndarray:
    joints = trace.joints[:: PHYSICS_HZ // ARM_HZ]
    joints = joints + rng.normal(0, 1, joints.shape) * ARM_NOISE
    joints[:, 6:] += _wander(len(joints), rng) * GEAR_TORQUE
    return joints.astype(np.float32)


def _wander(count: int, rng: np.random.Generator) -> np.ndarray:
    """(count, 3) of unit variance and correlation time GEAR_S: an Ornstein-Uhlenbeck process at ARM_HZ."""
    keep = np.exp(-1 / (GEAR_S * ARM_HZ))
    steps = rng.normal(0, 1, (count, 3)) * np.sqrt(1 - keep**2)
    steps[0] = rng.normal(0, 1, 3)
    for now in range(1, count):
        steps[now] += keep * steps[now - 1]
    return steps


def _sampled(
    modality: str, rate_hz: float, data: np.ndarray, units: str = "", channels: tuple[str, ...] = (), media: str = ""
) -> Recording:
    times = np.arange(len(data)) / rate_hz
    return Recording(modality, rate_hz, data, times_s=times, units=units, channels=channels, media=media)


def _audio(data: np.ndarray) -> Recording:
    ends = np.array([0.0, len(data) - 1.0])
    anchors = np.stack([ends, ends / AUDIO_HZ], axis=1)
    return Recording("audio", AUDIO_HZ, data, anchors=anchors, units="full scale", channels=("left", "right"))


def simulate_tabletop(
    out: Path | str,
    episodes: int,
    seconds: float = 4.0,
    seed: int = 0,
    size: int = 64,
    workers: int | None = None,
    faults: Mapping[str, ClockFault] | None = None,
) -> list[Path]:
    """Write logs 0 .. episodes-1 into `out`, in parallel over `workers` processes (default: one per core); their paths.

    Logs already there are kept, so a run that was stopped goes on; each appears under its name only when whole. Raises
    ValueError where `out` holds logs made with other parameters.
    """
    folder, faults = Path(out), faults or {}
    _check(seconds, size, faults)
    _claim(folder, {"simulator": VERSION, "seed": seed, "seconds": seconds, "size": size, "faults": describe(faults)})
    paths = [folder / f"tabletop-{index:06d}.h5" for index in range(episodes)]
    missing = [index for index, path in enumerate(paths) if not path.exists()]
    write = partial(_write, folder=folder, seconds=seconds, seed=seed, size=size, faults=faults)
    columns = (
        TextColumn("simulating {task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns) as progress:
        task = progress.add_task(folder.name, total=episodes, completed=episodes - len(missing))
        for _ in each(write, missing, workers):
            progress.advance(task)
    return paths


def simulate_world(
    world: str,
    out: Path | str,
    episodes: int,
    seconds: float = 4.0,
    seed: int = 0,
    size: int = 64,
    workers: int | None = None,
    faults: Mapping[str, ClockFault] | None = None,
) -> list[Path]:
    """`simulate_tabletop` by the world's name. Raises ValueError for a world there is not."""
    if world != "tabletop":
        raise ValueError(f"no world '{world}' to simulate; there is 'tabletop'")
    return simulate_tabletop(out, episodes, seconds, seed, size, workers, faults)


def _claim(folder: Path, parameters: dict) -> None:
    """Note in the folder what its logs are made with; a folder claimed for other parameters is refused."""
    note = folder / "tabletop.json"
    if note.exists():
        found = json.loads(note.read_text())
        other = [
            f"{key} = {found.get(key)} (asked: {value})" for key, value in parameters.items() if found.get(key) != value
        ]
        if other:
            raise ValueError(
                f"{folder} holds logs simulated with {'; '.join(other)}; choose another folder or remove it"
            )
        return
    if any(folder.glob("tabletop-*.h5")):
        raise ValueError(
            f"{folder} holds tabletop logs but no tabletop.json that says how they were made; choose another"
        )
    folder.mkdir(parents=True, exist_ok=True)
    half = folder / f".tabletop.{os.getpid()}.tmp"
    half.write_text(json.dumps(parameters, indent=1))
    half.replace(note)


def _write(index: int, folder: Path, seconds: float, seed: int, size: int, faults: Mapping[str, ClockFault]) -> None:
    made = simulate_log(seed, index, seconds, size, faults)
    path = folder / f"tabletop-{index:06d}.h5"
    write_log(path, made.recordings, made.labels, source=f"tabletop simulation {VERSION}", attributes=made.attributes)
