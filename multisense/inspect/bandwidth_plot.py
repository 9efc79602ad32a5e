"""The bandwidth as a picture: bytes per second on a logarithmic axis."""

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from multisense.inspect.bandwidth import CHILD_BYTES_PER_S, Bandwidth
from multisense.inspect.info import show_bytes

COLOURS = {"raw": "#9ecae1", "lossless": "#08519c", "stored": "#969696", "token_bytes": "#d95f0e"}
NAMES = {"raw": "raw", "lossless": "lossless", "stored": "stored", "token_bytes": "tokens"}


def bandwidth_plot(found: Bandwidth, path: str | Path) -> None:
    """Write PNG, SVG or PDF, by the suffix of `path`: a group of bars for each modality, and a child's 2 MB/s."""
    figure = Figure(figsize=(8, 1.6 + 0.9 * len(found.rates)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    height = 0.8 / len(COLOURS)
    for k, (name, colour) in enumerate(COLOURS.items()):
        rows = [(row + (k - 1.5) * height, getattr(rates, name)) for row, rates in enumerate(found.rates)]
        rows = [(row, value) for row, value in rows if value]
        places, values = [row for row, _ in rows], [value for _, value in rows]
        if values:
            bars = axes.barh(places, values, height, color=colour, label=NAMES[name])
            axes.bar_label(bars, [f"{show_bytes(value)}/s" for value in values], fontsize=7, padding=2)
    axes.axvline(CHILD_BYTES_PER_S, color="black", linewidth=0.8, linestyle="--", label="a child's eyes")
    axes.set_xscale("log")
    axes.set_yticks(range(len(found.rates)), [rates.modality for rates in found.rates])
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set_xlabel("bytes per second")
    axes.legend(fontsize=8, ncols=5, loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)
    figure.savefig(path, dpi=150)
