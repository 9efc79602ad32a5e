"""The tabletop world: physics -> video, sound, touch and joints with known ground truth, written as logs.

`simulate_tabletop` writes a folder of logs, `simulate_log` makes one in memory, `ClockFault` spoils a sensor's clock.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from multisense.sim.clocks import ClockFault, parse_fault, parse_faults
    from multisense.sim.simulate import Simulation, simulate_log, simulate_tabletop, simulate_world

__all__ = [
    "ClockFault",
    "Simulation",
    "parse_fault",
    "parse_faults",
    "simulate_log",
    "simulate_tabletop",
    "simulate_world",
]

# Read by MuJoCo when it is first imported; frames here are ray-cast, so no OpenGL library need exist.
os.environ.setdefault("MUJOCO_GL", "disable")


def __getattr__(name: str) -> Any:
    """Import on first use: MuJoCo is an extra, and most of the package runs without it."""
    if name not in __all__:
        raise AttributeError(f"module '{__name__}' has no attribute '{name}'; it has {__all__}")
    home = "clocks" if name in ("ClockFault", "parse_fault", "parse_faults") else "simulate"
    return getattr(import_module(f"{__name__}.{home}"), name)
