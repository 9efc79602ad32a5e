"""Time and devices that a run takes, from its FLOPs and bytes."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from multisense.clips import Grid
from multisense.estimate.body import Body
from multisense.estimate.devices import Device, device
from multisense.estimate.flops import Flops, clip_flops
from multisense.estimate.masks import Kept, kept_tokens
from multisense.estimate.memory import GIB, Memory, micro_batch, process_memory
from multisense.estimate.skeleton import skeleton, trained
from multisense.run import RunConfig

ACHIEVED = 0.4
"""Share of the peak of its matrix products that a step reaches, where nobody has measured it."""
USABLE = 0.9
"""Share of a device's memory that a run can fill: the rest is CUDA's own, messages between devices, and gaps."""
FLEETS = tuple(2**power for power in range(11))
"""Numbers of devices that are tried."""
DAY_S = 86400


@dataclass(frozen=True)
class Plan:
    """What to estimate for."""

    gpu: str = "h100"
    processes: int = 1
    """Devices that share a batch."""
    share: float = ACHIEVED
    hours_of_data: float | None = None
    """Hours of recording; None: what `train.steps` sees."""
    passes: float = 1.0
    """How often each hour is seen."""
    days: float | None = None
    """The run shall take so long."""

    def __post_init__(self) -> None:
        for name in ("processes", "share", "hours_of_data", "passes", "days"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"--{name.replace('_', '-')} must be above 0, found {value}")
        if self.share > 1:
            raise ValueError(f"--share is a share of the peak, at most 1, found {self.share}")


@dataclass(frozen=True)
class Estimate:
    """What a run costs. FLOPs are the expectation over masks; memory is that of the fullest masks that can be drawn."""

    config: RunConfig
    plan: Plan
    body: Body
    grids: Mapping[str, Grid]
    device: Device
    parameters: int
    """Trained; the teacher has as many again, less the predictor's."""
    tokens: Mapping[str, int]
    """Of each sensor in a clip."""
    kept: Kept
    flops: Flops
    """Of a clip."""
    replicated: Memory
    """Of one process with all weights, DDP."""
    sharded: Memory
    """Of one process with its share of the weights, FSDP2."""
    devices_for_memory: int | None
    """The fewest, doubling, on which the weights and one clip fit, sharded; None: on none of FLEETS."""

    @property
    def recomputed(self) -> float:
        """FLOPs of a clip that activation checkpointing computes again."""
        return self.flops.student[0] + self.flops.predictor[0] if self.config.train.checkpoint_activations else 0.0

    @property
    def step_flops(self) -> float:
        """Of an optimizer step, over all processes."""
        return self.config.train.batch_size * (self.flops.total + self.recomputed)

    @property
    def step_s(self) -> float:
        speed = self.device.peak(self.config.train.mixed_precision) * self.plan.share * self.plan.processes
        return self.step_flops / speed

    @property
    def clips_per_s(self) -> float:
        return self.config.train.batch_size / self.step_s

    @property
    def clips(self) -> float:
        """In the whole run."""
        if self.plan.hours_of_data is None:
            return float(self.config.train.steps * self.config.train.batch_size)
        return self.plan.passes * self.plan.hours_of_data * 3600 / self.config.data.clip_seconds

    @property
    def device_days(self) -> float:
        return self.clips / self.clips_per_s * self.plan.processes / DAY_S

    @property
    def devices_for_days(self) -> int | None:
        """So many take `plan.days`, each as busy as one."""
        return None if self.plan.days is None else math.ceil(self.device_days / self.plan.days)

    @property
    def usable(self) -> float:
        """Bytes of a device that a run can fill."""
        return USABLE * self.device.memory_gib * GIB

    @property
    def strategy(self) -> str | None:
        """The simplest that fits; None: neither."""
        if self.replicated.total <= self.usable:
            return "DDP" if self.plan.processes > 1 else "one process"
        return "FSDP2" if self.sharded.total <= self.usable else None

    @property
    def micro_batch(self) -> int:
        """Clips that a process holds at a time."""
        return micro_batch(self.config, self.plan.processes)

    @property
    def most_clips(self) -> int:
        """The largest micro-batch that fits, by the strategy that takes less."""
        least = min(self.replicated, self.sharded, key=lambda memory: memory.total)
        return max(math.floor((self.usable - least.weights) / (least.working / self.micro_batch)), 0)

    @property
    def decoded_bytes_per_s(self) -> float:
        """As recorded: what readers and decoders have to get through."""
        infos = [self.body.sensors[name] for name in self.grids]
        rates = (info.rate_hz * math.prod(info.shape) * np.dtype(info.dtype).itemsize for info in infos)
        return self.clips_per_s * self.config.data.clip_seconds * sum(rates)

    @property
    def cached_bytes_per_s(self) -> float:
        """As the model takes it: what a packed cache has to deliver."""
        return self.clips_per_s * sum(grid.bytes for grid in self.grids.values())


def estimate(config: RunConfig, body: Body, plan: Plan) -> Estimate:
    """What training `config` on such a body costs. Nothing is allocated, whatever the size.

    Raises ConfigError for an unknown device or a sensor that the body lacks.
    """
    chosen, grids = device(plan.gpu), body.grids(config)
    objective = skeleton(config, grids)
    layout = objective.student.layout
    kept = kept_tokens(layout, config.objective.masks)

    def memory(processes: int, sharded: bool) -> Memory:
        return process_memory(config, grids.values(), objective, kept, processes, sharded)

    def holds_a_clip(processes: int) -> bool:
        found = memory(processes, processes > 1)
        return found.weights + found.working / micro_batch(config, processes) <= USABLE * chosen.memory_gib * GIB

    counts = np.bincount(layout.sensor.numpy(), minlength=len(layout.names)).tolist()
    return Estimate(
        config=config,
        plan=plan,
        body=body,
        grids=grids,
        device=chosen,
        parameters=sum(p.numel() for p in trained(objective)),
        tokens=dict(zip(layout.names, counts, strict=True)),
        kept=kept,
        flops=clip_flops(config, objective, kept, config.train.batch_size // config.train.accumulate),
        replicated=memory(plan.processes, False),
        sharded=memory(plan.processes, True),
        devices_for_memory=next((number for number in FLEETS if holds_a_clip(number)), None),
    )
