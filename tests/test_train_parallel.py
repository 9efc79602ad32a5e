"""Many processes are one: launched by Accelerate, sharded by FSDP2, stopped by a scheduler."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from conftest import body_log, body_tree
from safetensors.torch import load_file
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from multisense.checkpoint import checkpoints, saved_step, whole
from multisense.clips import TrainingClips, collate
from multisense.layers import Block
from multisense.logs import Recording, write_log
from multisense.masking import draw_masks
from multisense.run import build_objective, make_grids, parse_config
from multisense.train.data import StepSampler
from multisense.train.guard import make_guard
from multisense.train.optimizer import make_optimizer

pytestmark = pytest.mark.slow
ACCELERATE = Path(__file__).parent.parent / "configs/accelerate"
EVERYTHING = ["objective.signal=1.0", "objective.contrast=0.5"]
"""Parts of the objective that look at other processes, or leave a head without a gradient."""


def written(folder: Path, lacking: str = "") -> Path:
    """Four native logs of the body, two of them without the sensor `lacking`, and the run that reads them."""
    for number in range(4):
        log = body_log(number)
        recordings = {
            n: Recording(m, rate, data, times)
            for n, (m, rate, times, data) in log.streams.items()
            if number % 2 == 0 or n != lacking
        }
        write_log(folder / "logs" / f"{log.name}.h5", recordings)
    tree = body_tree(batch_size=8, steps=3)
    tree["data"]["train"] = str(folder / "logs")
    tree["objective"] |= {"masks": {"masks_per_clip": 2, "alone": ["eye"]}, "ema_share": 0.5}
    tree["model"]["weights"] = "per_sensor"  # some of which have nothing to do in a step
    (folder / "run.yaml").write_text(json.dumps(tree))
    return folder / "run.yaml"


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), **more}


def launched(processes: int, config: Path, out: Path, overrides: Sequence[str] = ()) -> list[str]:
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(ACCELERATE / "cpu2.yaml")]
    many = [*launch, "--num_processes", str(processes)] if processes > 1 else [sys.executable]
    return [*many, "-m", "multisense", "train", str(config), *overrides, "--out", str(out)]


def finished(processes: int, config: Path, out: Path, overrides: Sequence[str] = ()) -> Path:
    command = launched(processes, config, out, overrides)
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return out


def metrics(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def tensors(out: Path) -> dict[str, torch.Tensor]:
    folder = checkpoints(out)[-1]
    return {
        f"{f}/{k}": v for f in ("objective", "optimizer") for k, v in load_file(folder / f"{f}.safetensors").items()
    }


def assert_same_run(one: Path, many: Path) -> None:
    """Losses, the guard's record, moments of the gradient, running moments of the targets."""
    ours, theirs = metrics(one), metrics(many)
    assert [line["step"] for line in ours] == [line["step"] for line in theirs] == [1, 2, 3]
    np.testing.assert_allclose([line["loss"] for line in ours], [line["loss"] for line in theirs], atol=1e-5)
    a, b = tensors(one), tensors(many)
    assert a.keys() == b.keys()
    for (
        key
    ) in a:  # weights of AdamW's first steps are signs of gradients, which rounding may turn where they are near 0
        if key.endswith((":exp_avg", "scale.moments")):
            torch.testing.assert_close(a[key], b[key], atol=1e-4, rtol=1e-2)


def test_one_process_is_two_is_four(tmp_path: Path):
    config = written(tmp_path)
    one = finished(1, config, tmp_path / "one", EVERYTHING)
    for many in (2, 4):
        assert_same_run(one, finished(many, config, tmp_path / str(many), EVERYTHING))


def test_a_sensor_that_only_some_processes_have_stops_nobody(tmp_path: Path):
    config = written(tmp_path, lacking="pad")
    overrides = [*EVERYTHING, "train.batch_size=2"]
    one = finished(1, config, tmp_path / "one", overrides)
    assert_same_run(one, finished(2, config, tmp_path / "two", overrides))


def test_a_job_that_is_told_to_stop_saves_and_is_queued_again(tmp_path: Path):
    """As under Slurm: the signal goes to launcher and processes alike, and `scontrol` is on the path."""
    config, out = written(tmp_path), tmp_path / "run"
    scontrol = tmp_path / "bin/scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
    scontrol.chmod(0o755)
    command = [*launched(2, config, out, ["train.steps=2000", "train.save_every=1000"]), "--requeue"]
    path = f"{scontrol.parent}{os.pathsep}{os.environ['PATH']}"
    job = subprocess.Popen(
        ["bash", "-c", "trap '' USR1; exec \"$@\"", "bash", *command],
        env=environment(SLURM_JOB_ID="7", PATH=path), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 200
    while not (out / "metrics.jsonl").exists() and job.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(job.pid, signal.SIGUSR1)
    said, errors = job.communicate(timeout=200)
    assert job.returncode == 0, errors[-3000:]
    step = saved_step(out)
    assert 1 <= step < 1000
    assert f"stopped at step {step} by SIGUSR1" in said
    assert "Slurm job 7 is queued again" in said
    assert (tmp_path / "asked").read_text() == "requeue 7\n"
    # The same command goes on, to the end that is now asked for.
    again = [
        *launched(2, config, out, [f"train.steps={step + 2}", "train.save_every=1000"]),
        "--requeue",
        "--allow-changes",
    ]
    subprocess.run(again, env=environment(), check=True, capture_output=True, timeout=300)
    assert saved_step(out) == step + 2


def trained_by(rank: int, port: int, way: str, weights: str, out: Path) -> None:
    """Four steps of two processes with the parts of the loop, sharded as Accelerate shards with FSDP2, or by DDP."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    tree = body_tree(batch_size=4)
    tree["objective"] |= {"signal": 1.0, "contrast": 0.5, "ema_share": 0.5, "masks": {"alone": ["eye"]}}
    tree["model"]["weights"] = weights
    config = parse_config(tree)
    logs = [body_log(number) for number in range(4)]
    grids = make_grids(config, logs)
    objective, guard = build_objective(config, grids), make_guard(config.train)
    layout = objective.student.layout
    if way == "fsdp2":
        mesh = init_device_mesh("cpu", (2,))
        for block in [module for module in objective.modules() if isinstance(module, Block)]:
            fully_shard(block, mesh=mesh)
        parallel: torch.nn.Module = fully_shard(objective, mesh=mesh)
    else:
        parallel = DistributedDataParallel(objective, broadcast_buffers=False)
    optimizer = make_optimizer(objective, config.train)
    clips = TrainingClips(logs, grids, 1.0, 0, 100)
    sampler = StepSampler(config.train, 0, rank, 2)
    for step in range(4):
        items = sampler.items(step, 0)
        losses = parallel(
            collate([clips[i] for i in items]), draw_masks(layout, config.objective.masks, 0, step, items)
        )
        losses.total.backward()
        norm = torch.nn.utils.clip_grad_norm_(parallel.parameters(), 3.0)
        loss = losses.total.detach().clone()
        dist.all_reduce(loss)
        skip = guard.judge(loss / 2, whole(norm))
        optimizer.found_inf = skip  # type: ignore[attr-defined]
        optimizer.step()
        optimizer.zero_grad()
        objective.update_teacher(10, skip)
    weights = {name: whole(value).clone() for name, value in objective.state_dict().items()}
    if rank == 0:
        torch.save(weights, out)
    dist.destroy_process_group()


@pytest.mark.parametrize("weights", ["shared", "per_sensor"])
def test_sharded_is_replicated(tmp_path: Path, weights: str):
    found = {}
    for port, way in ((29611, "ddp"), (29612, "fsdp2")):
        torch.multiprocessing.spawn(trained_by, (port, way, weights, tmp_path / way), nprocs=2)
        found[way] = torch.load(tmp_path / way)
    assert found["ddp"].keys() == found["fsdp2"].keys()
    assert max(float((v.double() - found["fsdp2"][k].double()).abs().max()) for k, v in found["ddp"].items()) < 1e-6
