"""The whole line on simulated recordings: simulate, train, embed, ablate, retrieve, report. No data needed."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from multisense.checkpoint import saved_step
from multisense.embed import embed_logs
from multisense.evaluate.ablation import ablate
from multisense.evaluate.retrieval import retrieve
from multisense.logs.open import open_logs
from multisense.report import report
from multisense.report.ablation import verdict
from multisense.run import load_config, open_run, write_atomically
from multisense.sim.simulate import simulate_tabletop
from multisense.train import train

TRAIN_EPISODES, TEST_EPISODES, SECONDS = 280, 80, 4.0
SEED = 0
SHOWN = ("map", "examples")
"""What the page measures besides: seconds each."""


def demo_config() -> Path:
    """The demo's configuration: inside an installed package, or beside it in a checkout."""
    here = Path(__file__).parent
    packaged = here / "configs" / "demo.yaml"
    return packaged if packaged.exists() else here.parent / "configs" / "demo.yaml"


def demo(
    out: Path,
    *,
    train_episodes: int = TRAIN_EPISODES,
    test_episodes: int = TEST_EPISODES,
    seed: int = SEED,
    overrides: tuple[str, ...] = (),
) -> Path:
    """Run the demo into the folder `out` and write results.json and report.html there; returns the path of the report.

    `overrides` are key.path=value of the configuration. What an earlier, interrupted demo finished in `out` is used
    again. Raises ConfigError if `out` holds a run that was made with another configuration, InterruptedError when the
    training was asked to stop.
    """
    out, seconds = Path(out), dict[str, float]()
    training, held_out, trained = out / "logs" / "train", out / "logs" / "test", out / "run"
    with _timed("simulate", seconds):
        simulate_tabletop(training, train_episodes, SECONDS, seed)
        simulate_tabletop(held_out, test_episodes, SECONDS, seed + 1)
    with _timed("train", seconds):
        given = (f"data.train={training}", f"data.test={held_out}", f"train.seed={seed}", *overrides)
        config = load_config(demo_config(), given)
        train(config, trained, resume=(trained / "run.json").exists())
    if saved_step(trained) < config.train.steps:
        raise InterruptedError(
            f"stopped at step {saved_step(trained)} of {config.train.steps}; the same command goes on from there"
        )
    run, logs = open_run(trained), open_logs(held_out)
    with _timed("embed", seconds):
        embed_logs(run, logs, out / "embeddings.h5")
    with _timed("ablate", seconds):
        ablation = ablate(run, logs, out / "ablation", seed=seed)
    with _timed("retrieve", seconds):
        retrieval = retrieve(run, logs, seed=seed)
    results = {"ablation": ablation, "retrieval": retrieval, "seconds": seconds, "provenance": ablation["provenance"]}
    write_atomically(out / "results.json", json.dumps(results, indent=1) + "\n")
    title = "multisense: what four senses of a robot learned together"
    known = {"ablation": ablation, "retrieval": retrieval}
    with _timed("report", seconds):
        page = report(run, logs, out / "report.html", title=title, given=known, measure=SHOWN, seconds=dict(seconds))
    Console().print(verdict(ablation["mean"]), highlight=False)
    return page


@contextmanager
def _timed(stage: str, seconds: dict[str, float]) -> Iterator[None]:
    began = time.perf_counter()
    Console(stderr=True).print(f"[bold]{stage}[/]", highlight=False)
    yield
    seconds[stage] = round(time.perf_counter() - began, 2)
