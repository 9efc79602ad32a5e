"""Stopping in good order: a signal asks the loop to save and end, at the same step on every process."""

import os
import signal
import subprocess
from types import FrameType

import torch
import torch.distributed as dist

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
"""Ends by hand and by a scheduler; SIGUSR1 is what Slurm is usually told to send before pre-emption (`--signal`)."""


class StopSignal:
    """While it is entered, the first signal is only noted; a second one ends the process as usual."""

    def __init__(self) -> None:
        self.name = ""
        self.before = {number: signal.getsignal(number) for number in SIGNALS}
        # Of its own on the host, so that asking costs no synchronisation with a device.
        self.group = dist.new_group(backend="gloo") if dist.is_initialized() else None
        self.asked: tuple[dist.Work, torch.Tensor] | None = None

    def __enter__(self) -> "StopSignal":
        for number in self.before:
            signal.signal(number, self._hear)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self.name = signal.Signals(number).name
        signal.signal(number, signal.SIG_DFL)

    def agreed(self) -> bool:
        """Whether any process had heard a signal; of many processes, by the call before, so that none waits for it."""
        if self.group is None:
            return bool(self.name)
        before, heard = self.asked, torch.tensor(float(bool(self.name)))
        work = dist.all_reduce(heard, group=self.group, async_op=True)  # pyright: ignore[reportCallIssue, reportArgumentType]
        assert work is not None
        self.asked = work, heard
        if before is None:
            return False
        before[0].wait()
        return bool(before[1] > 0)


def requeue_job() -> str:
    """Ask Slurm to run this job again; what came of it, in words. Outside of Slurm there is nothing to ask."""
    job = os.environ.get("SLURM_JOB_ID")
    if job is None:
        return "no Slurm job to queue again; go on with --requeue"
    done = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True, check=False)
    return (
        f"Slurm job {job} is queued again" if done.returncode == 0 else f"scontrol requeue {job}: {done.stderr.strip()}"
    )
