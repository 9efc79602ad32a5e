"""The `multisense` command: parse, call, print; no logic."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Learn one representation of a body's senses from synchronized logs, and ask which senses mattered.",
)
console = Console()

Run = Annotated[Path, typer.Argument(help="Folder of a trained run.")]
Logs = Annotated[str, typer.Argument(help="Folder of logs, one log, or a LeRobot root.")]


@app.command()
def demo(out: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("multisense-demo")) -> None:
    """Simulate, train, embed and ablate in under ten minutes on two cores; read OUT/report.html."""
    from multisense.demo import demo

    page = demo(out)
    console.print(f"Report: {page}")


@app.command()
def simulate(
    world: Annotated[str, typer.Argument(help="The world to simulate: tabletop.")],
    out: Annotated[Path, typer.Option(help="Folder of the logs.")],
    episodes: Annotated[int, typer.Option(min=1, help="Number of logs.")] = 100,
    seconds: Annotated[float, typer.Option(min=0.5, help="Length of a log in seconds.")] = 4.0,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    size: Annotated[int, typer.Option(min=16, help="Height and width of the camera in pixels.")] = 64,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; all cores by default.")] = None,
    clock: Annotated[
        list[str] | None,
        typer.Option(help="A recorded clock fault, such as camera:latency_s=0.05,drift_ppm=100. May be repeated."),
    ] = None,
) -> None:
    """Write logs of a simulated body with known ground truth. Resumable; the same seed gives the same bytes."""
    from multisense.sim import parse_faults, simulate_world

    paths = simulate_world(world, out, episodes, seconds, seed, size, workers, parse_faults(clock or []))
    console.print(f"{len(paths)} logs in {out}")


@app.command()
def train(
    config: Annotated[Path, typer.Argument(help="YAML file of the run.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key.path=value, for example model.depth=6.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the run.")] = Path("run"),
    resume: Annotated[bool, typer.Option(help="Go on from the last checkpoint in OUT.")] = False,
) -> None:
    """Train by cross-modal masked latent prediction. Also under `accelerate launch -m multisense train ...`."""
    from multisense.run import load_config
    from multisense.train import train

    train(load_config(config, overrides or []), out, resume)


@app.command()
def embed(
    run: Run,
    logs: Logs,
    out: Annotated[Path, typer.Option("--out", "-o", help="HDF5 file to write.")],
    window: Annotated[float | None, typer.Option(help="Seconds; the clip length of the run by default.")] = None,
    stride: Annotated[float, typer.Option(help="Seconds from one window to the next.")] = 0.5,
    sensors: Annotated[str | None, typer.Option(help="Comma-separated; all by default.")] = None,
) -> None:
    """Write fused, per-sensor and per-time embeddings of logs: one HDF5 group per log. Resumable."""
    from multisense.embed import embed_path

    chosen = None if sensors is None else sensors.split(",")
    console.print(str(embed_path(run, logs, out, window, stride, chosen)))


@app.command()
def ablate(
    run: Run,
    logs: Annotated[str | None, typer.Argument(help="Held-out logs; by default the run's own data.test.")] = None,
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for ablation.json, .csv and .png.")],
    stride: Annotated[
        float | None, typer.Option(help="Seconds from one probed window to the next; half a clip by default.")
    ] = None,
) -> None:
    """Which sense mattered: every subset of sensors x every label, on held-out logs, beside the baselines."""
    from multisense.evaluate.ablation import ablate_path

    console.print(ablate_path(run, logs, out, stride))


def main() -> None:
    """Entry point: what a user got wrong is a sentence, not a traceback."""
    try:
        app(standalone_mode=True)
    except (ValueError, ImportError, OSError) as error:
        Console(stderr=True).print(f"[bold red]error:[/] {error}", highlight=False, soft_wrap=True)
        raise SystemExit(1) from None
