"""Arms as tasks of a Ray cluster. One that dies with its worker is told as failed; the queue tries it again."""

import os
from collections.abc import Iterator, Sequence
from importlib.util import find_spec

from multisense.arms.plan import Arm
from multisense.arms.queue import attempt
from multisense.logs.base import how_to_install


def on_ray(arms: Sequence[Arm]) -> Iterator[tuple[Arm, str]]:
    """Train arms on the cluster that RAY_ADDRESS names, or on this machine as one: a task each, with one GPU where the
    cluster has any, else with one core. All nodes must see the arms' folders and the logs at the same paths.

    Raises ImportError where Ray is missing.
    """
    if find_spec("ray") is None:
        raise ImportError(f"--on ray needs Ray. {how_to_install('cluster')}")
    import ray
    from ray.exceptions import RayError

    if not ray.is_initialized():
        ray.init(log_to_driver=False)
    gpus = int(bool(ray.cluster_resources().get("GPU")))
    task = ray.remote(_train).options(max_retries=0, num_cpus=1, num_gpus=gpus)
    waiting = {task.remote(arm, os.getcwd()): arm for arm in arms}
    while waiting:
        (done,), _ = ray.wait(list(waiting))
        arm = waiting.pop(done)
        try:
            yield arm, ray.get(done)
        except RayError as error:
            yield arm, f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"


def _train(arm: Arm, folder: str) -> str:
    os.chdir(folder)  # what a configuration's relative paths are relative to
    return attempt(arm, threads=1)
