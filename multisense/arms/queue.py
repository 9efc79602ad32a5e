"""The queue of arms: each is trained once, wherever there is room; what fails or dies loses its attempt and no other.

An arm's folder is a run, so that a second call finds what is finished, and an arm that was killed goes on from its last
checkpoint.
"""

import json
import multiprocessing
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import Progress, TextColumn, TimeRemainingColumn

from multisense.arms.plan import Arm
from multisense.checkpoint import saved_step
from multisense.run import holds_run, resume_differs, training_logs, write_atomically
from multisense.train import train

PLACES = ("here", "processes", "ray")


@dataclass(frozen=True)
class Outcome:
    """What became of an arm."""

    state: str
    """done or failed"""
    attempts: int
    """Attempts of this call; 0 where it was finished before."""
    error: str = ""


def train_arms(
    arms: Sequence[Arm], out: Path, on: str = "here", workers: int = 2, attempts: int = 2
) -> dict[str, Outcome]:
    """Train every arm that is not finished; returns what became of each, and writes it into `out`/arms.json.

    `on`: in this process one after the other ("here"), in `workers` "processes" of this machine, or as tasks of a "ray"
    cluster whose nodes all see the folder and the logs. What one arm raises, or a worker that dies, is tried again up to
    `attempts` times and then noted. Numbers are the same wherever an arm is trained with the same number of threads.
    Raises ConfigError, before anything is trained, where an arm's folder holds a run of another configuration.
    """
    if on not in PLACES:
        raise ValueError(f"--on {on}: expected one of {', '.join(PLACES)}")
    out.mkdir(parents=True, exist_ok=True)
    found: dict[str, Outcome] = {}
    for arm in arms:
        if holds_run(arm.folder):
            resume_differs(arm.folder, arm.config, training_logs(arm.config))
        if finished(arm):
            found[arm.name] = Outcome("done", 0)
    for attempt in range(1, attempts + 1):
        todo = [arm for arm in arms if arm.name not in found or found[arm.name].state == "failed"]
        for arm, error in _run(todo, on, workers):
            found[arm.name] = Outcome("failed" if error else "done", attempt, error)
            _write(out / "arms.json", found)
            if error:
                Console(stderr=True).print(f"arm {arm.name}, attempt {attempt}: {error}", markup=False, style="red")
    _write(out / "arms.json", found)
    return {arm.name: found[arm.name] for arm in arms}


def _write(file: Path, found: Mapping[str, Outcome]) -> None:
    """Beside what is there of other arms."""
    known = json.loads(file.read_text()) if file.exists() else {}
    write_atomically(file, json.dumps({**known, **{n: asdict(o) for n, o in found.items()}}, indent=1) + "\n")


def finished(arm: Arm) -> bool:
    return holds_run(arm.folder) and saved_step(arm.folder) >= arm.config.train.steps


def attempt(arm: Arm, threads: int | None = None) -> str:
    """Train an arm, or go on with it; what went wrong, in words, or nothing."""
    try:
        if threads is not None:
            torch.set_num_threads(threads)
        train(arm.config, arm.folder, resume=holds_run(arm.folder))
    except Exception as error:  # whatever it is, the other arms go on, and the table says it
        return f"{type(error).__name__}: {error}"
    if not finished(arm):
        raise KeyboardInterrupt(f"stopped at step {saved_step(arm.folder)} of arm {arm.name}; the same command goes on")
    return ""


def _run(arms: Sequence[Arm], on: str, workers: int) -> Iterator[tuple[Arm, str]]:
    if on == "here":
        return one_by_one(arms)
    if on == "processes":
        return watched(arms, in_processes(arms, workers))
    from multisense.arms.cluster import on_ray

    return watched(arms, on_ray(arms))


def one_by_one(arms: Sequence[Arm]) -> Iterator[tuple[Arm, str]]:
    for number, arm in enumerate(arms, start=1):
        Console(stderr=True).print(f"arm {number} of {len(arms)}: {arm.name}", markup=False, highlight=False)
        yield arm, attempt(arm)


def in_processes(arms: Sequence[Arm], workers: int) -> Iterator[tuple[Arm, str]]:
    """Each arm in a fresh process of its own; at most `workers` of them share the cores, or as many threads as torch has
    here where these are fewer: OMP_NUM_THREADS is meant for them, too."""
    threads = max(min((os.cpu_count() or 1) // workers, torch.get_num_threads()), 1)
    with ThreadPoolExecutor(workers) as pool:
        waiting = {pool.submit(_in_process, arm, threads): arm for arm in arms}
        try:
            yield from ((waiting[done], done.result()) for done in as_completed(waiting))
        finally:  # told to stop, those at work save and end, and no other begins
            pool.shutdown(wait=False, cancel_futures=True)


def _in_process(arm: Arm, threads: int) -> str:
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(arm, threads, theirs))
    child.start()
    theirs.close()
    child.join()
    if ours.poll():
        try:
            return ours.recv()
        except EOFError:
            pass
    return f"its process died (exit code {child.exitcode})"


def _child(arm: Arm, threads: int, answer: Connection) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    answer.send(attempt(arm, threads))


def _end_with_parent() -> None:
    """Nobody would collect an arm whose queue was killed, and the next call would train it a second time beside it."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def watched(arms: Sequence[Arm], done: Iterator[tuple[Arm, str]]) -> Iterator[tuple[Arm, str]]:
    """Pass on what is done, and meanwhile show how far all arms are, from their metrics."""
    stop = threading.Event()
    bar = Progress(*Progress.get_default_columns()[:3], TimeRemainingColumn(), TextColumn("{task.fields[busy]}"))
    with bar, ThreadPoolExecutor(1) as pool:
        pool.submit(_show, bar, arms, stop)
        try:
            yield from done
        finally:
            stop.set()


def _show(bar: Progress, arms: Sequence[Arm], stop: threading.Event) -> None:
    task = bar.add_task("training arms", total=sum(arm.config.train.steps for arm in arms), busy="")
    while not stop.wait(1.0):
        at = {arm.name: (_step(arm.folder), arm.config.train.steps) for arm in arms}
        busy = [f"{name} {step}/{of}" for name, (step, of) in at.items() if 0 < step < of]
        bar.update(task, completed=sum(step for step, _ in at.values()), busy=", ".join(busy))


def _step(folder: Path) -> int:
    """The last step in an arm's metrics."""
    file = folder / "metrics.jsonl"
    lines = file.read_text().splitlines() if file.exists() else []
    whole = [line for line in lines[-2:] if line.endswith("}")]
    found: Mapping[str, int] = json.loads(whole[-1]) if whole else {"step": 0}
    return found["step"]
