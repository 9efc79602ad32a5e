"""Tables for people and for programs: a caption, headings with a scope, sorting by any column, and all of it as CSV."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any
from urllib.parse import quote

import numpy as np
from matplotlib import colormaps

from multisense.evaluate.plots import CMAP
from multisense.evaluate.table import text

INTERVAL = ("", " low", " high")
"""What is added to a column's name in the CSV where its cells have intervals."""


@dataclass(frozen=True)
class Cell:
    """What a cell says, and what it stands for: a number, a number with its interval, or words."""

    words: str
    values: tuple[float | str | None, ...] = ()
    note: str = ""
    """Shown smaller, after the words."""
    style: str = ""
    """Of a cell of a heat map."""
    is_strong: bool = False

    @property
    def csv(self) -> tuple[float | str | None, ...]:
        return self.values or (self.words,)


@dataclass(frozen=True)
class Table:
    name: str
    """Of the CSV file."""
    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    foot: Sequence[Sequence[Cell]] = ()
    """Rows that stay at the end however the table is sorted."""
    heads: Mapping[str, str] | None = None
    """HTML for the headings of some columns, which are spoken and written to the CSV by their names."""
    look: str = "plain"


NONE = Cell("-", (None,))


def number(value: float | None, form: str = ".3g") -> Cell:
    """A plain number; a dash where there is none."""
    return NONE if value is None or not math.isfinite(value) else Cell(f"{value:{form}}", (value,))


def score(cell: Mapping[str, Any] | None) -> Cell:
    """{"mean", "low", "high"} as .62 [.58, .66]."""
    if cell is None or cell["mean"] is None:
        return NONE
    words, _, interval = text(cell).partition(" ")
    return Cell(words, (cell["mean"], cell["low"], cell["high"]), interval)


def gap(cell: Mapping[str, Any] | None, sign: int = 1) -> Cell:
    """A difference, signed; strong where p is below .05 or, without a p, its interval leaves 0 out. `sign` -1 turns a loss
    into a change."""
    if cell is None or cell["mean"] is None:
        return NONE
    mean, low, high = sign * cell["mean"], cell["low"], cell["high"]
    if low is not None and high is not None:
        low, high = sorted((sign * low, sign * high))
    note = "" if low is None or high is None else f"[{_signed(low)}, {_signed(high)}]"
    note += f" p={cell['p']:.2g}" if cell.get("p") is not None else ""
    is_beyond = low is not None and high is not None and (low > 0 or high < 0)
    is_told = is_beyond if cell.get("p") is None else cell["p"] < 0.05
    return Cell(_signed(mean), (mean, low, high), note, is_strong=is_told and _signed(mean) != "0.00")


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-0.00", "0.00").replace("+0.00", "0.00")


def percent(value: Mapping[str, Any] | float | None) -> Cell:
    """A share, or {"mean", "low", "high"} of one, in per cent; a dash where there is none."""
    if value is None or (isinstance(value, Mapping) and value["mean"] is None):
        return NONE
    if isinstance(value, Mapping):
        mean, low, high = (value[k] for k in ("mean", "low", "high"))
        note = "" if low is None else f"[{100 * low:.0f}, {100 * high:.0f}]"
        return Cell(_per_cent(mean), (mean, low, high), note)
    return Cell(_per_cent(value), (value,))


def _per_cent(share: float) -> str:
    return f"{100 * share:.0f} %" if share >= 0.095 else f"{100 * share:.1f} %"


def heat(cell: Mapping[str, Any] | None) -> Cell:
    """A score from 0 to 1 on its colour, in the ink, black or white, that stands out more."""
    if cell is None or cell["mean"] is None:
        return NONE
    shown = score(cell)
    colour = np.array(colormaps[CMAP](min(max(cell["mean"], 0), 1))[:3])
    linear = np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)
    luminance = float(linear @ (0.2126, 0.7152, 0.0722))  # WCAG 2.2, relative luminance
    ink = "#000" if luminance > 0.179 else "#fff"
    red, green, blue = (round(255 * channel) for channel in colour)
    return Cell(shown.words, shown.values, shown.note, f"background:rgb({red},{green},{blue});color:{ink}")


def draw(table: Table) -> str:
    """The table as HTML, in a box that it scrolls in, with a link that holds its CSV."""
    head = "".join(_head(name, (table.heads or {}).get(name)) for name in table.columns)
    body = "".join(_row(row) for row in table.rows)
    foot = f"<tfoot>{''.join(_row(row) for row in table.foot)}</tfoot>" if table.foot else ""
    caption = escape(table.caption, quote=True)
    link = f"data:text/csv;charset=utf-8,{quote(as_csv(table))}"
    return (
        f"<div class='tabled'><div class='scroll' role='region' tabindex='0' aria-label='{caption}'>"
        f"<table class='{table.look} sortable' id='table-{table.name}'><caption>{caption}</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody>{foot}</table></div>"
        f"<a class='csv' download='{table.name}.csv' href='{link}' aria-label='{caption}, as CSV'>CSV</a></div>"
    )


def _head(name: str, html: str | None) -> str:
    spoken = f" aria-label='{escape(name, quote=True)}'" if html else ""
    return f"<th scope='col'{spoken}>{html or escape(name)}</th>"


def _row(row: Sequence[Cell]) -> str:
    first, *others = row
    note = f" <small>{escape(first.note)}</small>" if first.note else ""
    return (
        f"<tr><th scope='row' data-v='{_key(first)}'>{escape(first.words)}{note}</th>{''.join(map(_cell, others))}</tr>"
    )


def _cell(cell: Cell) -> str:
    style = f" style='{cell.style}'" if cell.style else ""
    kind = " class='strong'" if cell.is_strong else ""
    note = f" <small>{escape(cell.note)}</small>" if cell.note else ""
    return f"<td{kind}{style} data-v='{_key(cell)}'>{escape(cell.words)}{note}</td>"


def _key(cell: Cell) -> str:
    """What the cell is sorted by; empty goes last."""
    value = cell.csv[0]
    return "" if value is None else escape(f"{value:.9g}" if isinstance(value, float) else str(value), quote=True)


def as_csv(table: Table) -> str:
    """Every number unrounded; a column of intervals becomes three."""
    rows = [*table.rows, *table.foot]
    widths = [max((len(row[i].csv) for row in rows), default=1) for i in range(len(table.columns))]
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(
        name + ending for name, width in zip(table.columns, widths, strict=True) for ending in INTERVAL[:width]
    )
    for row in rows:
        writer.writerow(value for cell, width in zip(row, widths, strict=True) for value in _padded(cell.csv, width))
    return file.getvalue()


def _padded(values: tuple[Any, ...], width: int) -> list[Any]:
    return ["" if value is None else value for value in (*values, *[None] * (width - len(values)))]
