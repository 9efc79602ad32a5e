"""The `multisense` command: parse, call, print; no logic."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Learn one representation of a body's senses from synchronized logs, and ask which senses mattered.",
)
console = Console()

Run = Annotated[Path, typer.Argument(help="Folder of a trained run.")]
Logs = Annotated[str, typer.Argument(help="Logs of any format: a file, a folder, hf://datasets/OWNER/NAME.")]


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
    console.print(f"{len(paths)} log{'s' * (len(paths) != 1)} in {out}")


@app.command()
def info(
    logs: Logs,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
    bandwidth: Annotated[bool, typer.Option(help="Measure bytes per second: raw, lossless, stored.")] = False,
    picture: Annotated[Path | None, typer.Option(help="With --bandwidth: also draw it into this PNG.")] = None,
    run: Annotated[Path | None, typer.Option(help="With --bandwidth: count the tokens of this run.")] = None,
) -> None:
    """What is in logs of any format: sensors, shapes, rates, units, hours, bytes."""
    from multisense.inspect.commands import show_info
    from multisense.run import token_rates

    tokens = ({}, 0) if run is None else token_rates(run)
    raise typer.Exit(show_info(logs, console, as_json, bandwidth, picture, *tokens))


@app.command()
def check(
    logs: Logs,
    html: Annotated[Path | None, typer.Option(help="Also write a page with every finding marked.")] = None,
    clocks: Annotated[bool, typer.Option(help="Also compare the clocks by what the streams hold.")] = True,
) -> None:
    """Whether logs can be trusted: streams, files and clocks. Exit status 1 where there are errors."""
    from multisense.inspect.commands import show_check

    raise typer.Exit(show_check(logs, console, html, clocks))


@app.command()
def align(
    logs: Logs,
    reference: Annotated[str | None, typer.Option(help="The sensor whose clock is right.")] = None,
    sensors: Annotated[str | None, typer.Option(help="Comma-separated; all by default.")] = None,
    apply: Annotated[bool, typer.Option("--apply", help="Record the corrections in the (native) logs.")] = False,
) -> None:
    """Clock offset and drift of every sensor, found from what the streams hold; "undetermined" where they do not tell."""
    from multisense.inspect.commands import show_align

    show_align(logs, console, reference, None if sensors is None else sensors.split(","), apply)


@app.command(name="import")
def import_(
    source: Annotated[str, typer.Argument(help="Logs of any format.")],
    out: Annotated[Path, typer.Option(help="Folder of the native logs.")],
    size: Annotated[str | None, typer.Option(help="Store frames at HEIGHTxWIDTH, decoded, for fast training.")] = None,
    sensors: Annotated[str | None, typer.Option(help="Comma-separated; all by default.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes; all cores by default.")] = None,
) -> None:
    """Make native logs of logs of any format. Streaming, resumable; writes a manifest with hashes."""
    from multisense.logs.importing import import_logs, parse_size

    made = import_logs(source, out, parse_size(size), None if sensors is None else sensors.split(","), workers)
    console.print(f"{len(made.logs)} logs in {out}; {made.manifest}")
    for name, why in made.failed.items():
        console.print(f"not imported: {name}: {why}", markup=False)
    raise typer.Exit(1 if made.failed else 0)


@app.command()
def init(
    logs: Logs,
    out: Annotated[Path, typer.Option("--out", "-o", help="YAML file to write.")],
) -> None:
    """Write a training configuration that fits the logs, each line with a comment that says why."""
    from multisense.suggest import write_config

    write_config(logs, out)
    console.print(f"{out}; now: multisense train {out} --out run")


@app.command()
def train(
    config: Annotated[Path, typer.Argument(help="YAML file of the run.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key.path=value, for example model.depth=6.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the run.")] = Path("run"),
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint in OUT.")] = False,
    requeue: Annotated[
        bool,
        typer.Option("--requeue", help="Go on if OUT holds a run, else begin; stopped, queue the Slurm job again."),
    ] = False,
    allow_changes: Annotated[
        bool, typer.Option("--allow-changes", help="Go on although configuration or data differ from before.")
    ] = False,
) -> None:
    """Train by cross-modal masked latent prediction. Also under `accelerate launch -m multisense train ...`."""
    from multisense.run import load_config
    from multisense.train import train

    train(load_config(config, overrides or []), out, resume, allow_changes, requeue)


@app.command()
def health(
    run: Run,
    logs: Logs,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Whether a run has learnt, and what ails it, from held-out logs. Exit status 1 where an alarm stands."""
    from multisense.health.report import show_health

    raise typer.Exit(show_health(run, logs, console, as_json))


@app.command()
def estimate(
    config: Annotated[Path, typer.Argument(help="YAML file of the run.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key.path=value, for example model.depth=6.")] = None,
    gpu: Annotated[str, typer.Option(help="h100, h200, a100, rtx4090, l4 or cpu.")] = "h100",
    processes: Annotated[int, typer.Option(help="Devices that share a batch.")] = 1,
    hours_of_data: Annotated[float | None, typer.Option(help="Hours of recording; else what train.steps sees.")] = None,
    passes: Annotated[float, typer.Option(help="How often each hour is seen.")] = 1.0,
    days: Annotated[float | None, typer.Option(help="Also say how many devices take so long.")] = None,
    share: Annotated[float, typer.Option(help="Share of the device's peak that a step reaches.")] = 0.4,
    like: Annotated[Path | None, typer.Option(help="A run, or a YAML of the sensors' shapes and rates.")] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Dry run without numbers; exit status 1 where it would not fit.")
    ] = False,
) -> None:
    """What a run costs, from its configuration alone: memory, FLOPs, days, devices; names everything it assumes."""
    from multisense.estimate.commands import show_estimate
    from multisense.estimate.cost import Plan

    plan = Plan(gpu, processes, share, hours_of_data, passes, days)
    raise typer.Exit(show_estimate(console, config, overrides or [], plan, like, check))


@app.command()
def embed(
    run: Run,
    logs: Logs,
    out: Annotated[Path, typer.Option("--out", "-o", help="HDF5 file to write.")],
    window: Annotated[float | None, typer.Option(help="Seconds; the clip length of the run by default.")] = None,
    stride: Annotated[float, typer.Option(help="Seconds from one window to the next.")] = 0.5,
    sensors: Annotated[str | None, typer.Option(help="Comma-separated; all by default.")] = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="LOGS is one log that is being recorded: embed as it grows.")
    ] = False,
) -> None:
    """Write fused, per-sensor and per-time embeddings of logs: one HDF5 group per log. Resumable.

    Also over several processes: `accelerate launch -m multisense embed ...`.
    """
    from multisense.embed import embed_path
    from multisense.follow import follow_path

    chosen = None if sensors is None else sensors.split(",")
    if follow:
        console.print(str(follow_path(run, Path(logs), out, stride, chosen)))
    elif (report := embed_path(run, logs, out, window, stride, chosen)).complete:
        console.print(str(report))


@app.command()
def ablate(
    run: Run,
    logs: Annotated[str | None, typer.Argument(help="Held-out logs; by default the run's own data.test.")] = None,
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for ablation.json, .csv and .png.")],
    stride: Annotated[
        float | None, typer.Option(help="Seconds from one probed window to the next; half a clip by default.")
    ] = None,
    retrain: Annotated[
        bool, typer.Option("--retrain", help="Also train a model for every subset of the sensors: retrain.json.")
    ] = False,
    without: Annotated[
        str | None,
        typer.Option(help="Train without these parts of the objective: block,cross,causal,signal,contrast,ema."),
    ] = None,
    grid: Annotated[
        Path | None, typer.Option(help="Train each arm of a YAML file {arm: {key.path: value}}: objective.json.")
    ] = None,
    on: Annotated[str, typer.Option(help="Where arms are trained: here, processes or ray.")] = "here",
    workers: Annotated[int, typer.Option(min=1, help="Arms at once, with --on processes.")] = 2,
) -> None:
    """Which sense mattered for which label: every subset of sensors, beside an untrained network and raw signals."""
    if retrain:
        from multisense.arms.commands import show_retrained

        show_retrained(run, logs, out, stride, on, workers, console)
    if without or grid:
        from multisense.arms.commands import show_objective

        parts = without.split(",") if without else []
        show_objective(run, logs, out, parts, grid, stride, on, workers, console)
    if not (retrain or without or grid):
        from multisense.evaluate.ablation import ablate_path

        console.print(ablate_path(run, logs, out, stride))
    _say_where(out)


@app.command()
def robustness(
    run: Run,
    logs: Annotated[str | None, typer.Argument(help="Held-out logs; by default the run's own data.test.")] = None,
    *,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for robustness.json, .csv and .png.")],
    stride: Annotated[
        float | None, typer.Option(help="Seconds from one probed window to the next; half a clip by default.")
    ] = None,
) -> None:
    """What happens when a sense is late, noisy, broken or gone: clean probes on disturbed held-out logs."""
    from multisense.evaluate.robustness import robustness_path

    console.print(robustness_path(run, logs, out, stride))
    _say_where(out)


@app.command()
def retrieve(
    run: Run,
    logs: Annotated[str | None, typer.Argument(help="Held-out logs; by default the run's own data.test.")] = None,
    source: Annotated[str | None, typer.Option("--from", help="Comma-separated sensors, together.")] = None,
    target: Annotated[str | None, typer.Option("--to", help="Comma-separated sensors, one by one.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Whether one sense finds another's recording: every pair, and all others -> one, both ways, or as asked."""
    from multisense.evaluate.retrieval_table import retrieve_path, rich_table

    sides = [None if side is None else side.split(",") for side in (source, target)]
    found = retrieve_path(run, logs, *sides)
    if as_json:
        console.print_json(data=found)
    else:
        console.print(rich_table(found))


@app.command()
def probe(
    run: Run,
    logs: Annotated[str | None, typer.Argument(help="Held-out logs; by default the run's own data.test.")] = None,
    label: Annotated[list[str] | None, typer.Option(help="What to predict; may be repeated. All by default.")] = None,
    kind: Annotated[str, typer.Option("--probe", help="linear, knn or attentive.")] = "linear",
    budget: Annotated[str, typer.Option(help="Per cent of the training logs, such as 1,10,100.")] = "100",
    group: Annotated[
        str | None, typer.Option(help="Leave out one group of LOGS after the other, by this label of a log.")
    ] = None,
    seeds: Annotated[int, typer.Option(help="Repeats of drawn budgets and of attentive probes.")] = 5,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """What the frozen embedding says of labels, on held-out logs or groups, beside chance and an untrained network."""
    from multisense.evaluate.probing_table import show_probe
    from multisense.evaluate.protocol import Protocol, parse_budgets

    protocol = Protocol(kind, parse_budgets(budget), group, seeds)
    show_probe(run, logs, protocol, label or [], console, as_json)


@app.command()
def view(
    logs: Logs,
    run: Annotated[Path | None, typer.Option(help="Also show tokens, errors and embedding by this run.")] = None,
    log: Annotated[str | None, typer.Option(help="Which of several logs, by name; the first by default.")] = None,
    save: Annotated[
        Path | None, typer.Option(help="Write a file for Rerun (.rrd) instead of opening the viewer.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the masks.")] = 0,
) -> None:
    """A log in the Rerun viewer: every stream; by a run also tokens kept and hidden, errors, the embedding over time."""
    from multisense.view.show import show

    console.print(show(logs, run, log, save, seed), markup=False, highlight=False, soft_wrap=True)


@app.command()
def export(
    run: Run,
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write, ending in .pt2.")],
    onnx: Annotated[bool, typer.Option("--onnx", help="Also as .onnx beside it; takes minutes.")] = False,
) -> None:
    """The encoder as a graph that runs without multisense (torch.export, ONNX), compared with the model first."""
    from multisense.publish.export import export_path

    console.print(str(export_path(run, out, onnx)), markup=False, soft_wrap=True)


@app.command()
def publish(
    run: Run,
    out: Annotated[Path, typer.Option("--out", "-o", help="New folder to write.")],
    ablation: Annotated[Path | None, typer.Option(help="Folder of `multisense ablate`, for the card.")] = None,
    push: Annotated[str | None, typer.Option(help="OWNER/NAME on the Hub to put it at.")] = None,
    private: Annotated[
        bool, typer.Option("--private", help="Only you see PUSH, which must be new or private.")
    ] = False,
) -> None:
    """A model as a folder or repository for `from_pretrained`, its card with the true provenance and results."""
    from multisense.publish.folder import publish_path

    console.print(str(publish_path(run, out, ablation, push, private)), markup=False, soft_wrap=True)


@app.command()
def report(
    run: Run,
    logs: Annotated[str | None, typer.Argument(help="Held-out logs; by default the run's own data.test.")] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="The page; results are kept beside it.")] = Path(
        "report.html"
    ),
    retrain: Annotated[Path | None, typer.Option(help="Folder of `ablate --retrain`, to be shown, too.")] = None,
) -> None:
    """One page that needs no network: recordings, training, map, probes, ablation, robustness, retrieval."""
    from multisense.report import report_path

    console.print(f"Report: {report_path(run, logs, out, retrain)}")


def _say_where(out: Path) -> None:
    console.print(f"Intervals and paired differences are in {out} (.json, .csv, .png).", markup=False, soft_wrap=True)


def main() -> None:
    """Entry point: what a user got wrong is a sentence, not a traceback."""
    try:
        app(standalone_mode=True)
    except (ValueError, ImportError, OSError) as error:
        Console(stderr=True).print(f"[bold red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        raise SystemExit(1) from None
