"""One self-contained page about logs: every stream on one time axis, every finding marked, every clock compared."""

from collections.abc import Container, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path

from multisense.inspect.align import Alignment, Offset
from multisense.inspect.clocks import CLOCK_KINDS, show_drift, show_late
from multisense.inspect.findings import Finding, worst_first
from multisense.inspect.pictures import recording
from multisense.logs.base import LogError, SensorLog

SHOWN_LOGS = 12
SECONDS = 10.0
WHY = "<th class='words'>{}</th>"


def html_page(title: str, body: str, style: str = "", script: str = "") -> str:
    """A page of the house's style that loads nothing from anywhere; `body` is HTML, `style` is added to the house's."""
    style = (files("multisense.inspect") / "page.css").read_text() + style
    run = f"<script>{script}</script>" if script else ""
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title><style>{style}</style></head><body><a class="skip" href="#main">Skip to the content</a>
<main id="main" tabindex="-1">
{body}
</main>{run}</body></html>
"""


def write_check_page(
    path: Path, source: str, logs: Sequence[SensorLog], findings: Sequence[Finding], alignment: Alignment | None
) -> None:
    """Write the page of a check; it loads nothing from anywhere. The logs with most findings are drawn, at most
    SHOWN_LOGS, each from just before its first finding."""
    counts = {level: sum(f.level == level for f in findings) for level in ("error", "warning", "info")}
    said = ", ".join(f"{n} {level}{'s' * (n != 1)}" for level, n in counts.items())
    parts = [f"<h1>Check of {escape(source)}</h1><p class='lead'>{len(logs)} readable logs: {said}.</p>"]
    parts.append(_section("Findings", _findings(findings)))
    if alignment is not None:
        off = {f.sensor for f in findings if f.kind in CLOCK_KINDS}
        parts.append(_section("Clocks", _clocks(alignment, off)))
    order = sorted(logs, key=lambda log: -sum(f.log == log.name and f.level != "info" for f in findings))
    parts += [_section(escape(log.name), _drawn(log, findings)) for log in order[:SHOWN_LOGS]]
    path.write_text(html_page(f"check of {source}", "\n".join(parts)))


def _section(title: str, content: str) -> str:
    return f"<section><h2>{title}</h2><div class='scroll'>{content}</div></section>"


def _findings(findings: Sequence[Finding]) -> str:
    if not findings:
        return "<p>Nothing found.</p>"
    rows = "".join(
        f"<tr><td class='{f.level}'>{f.level}</td><td>{escape(f.log or 'all')}</td><td>{escape(f.sensor or 'all')}</td>"
        f"<td>{escape(f.kind)}</td><td>{'' if f.start_s is None else f'{f.start_s:.2f}'}</td>"
        f"<td class='words'>{escape(f.message)}</td></tr>"
        for f in worst_first(findings)
    )
    head = "".join(f"<th>{name}</th>" for name in ("level", "log", "sensor", "kind", "from (s)")) + WHY.format("what")
    return f"<table class='plain'><tr>{head}</tr>{rows}</table>"


def _clocks(alignment: Alignment, off: Container[str]) -> str:
    rows = "".join(_clock(offset, offset.sensor in off) for offset in alignment.offsets.values())
    head = "".join(f"<th>{name}</th>" for name in ("sensor", "late by", "drift", "confidence")) + WHY.format("why")
    words = f"<p>Against <code>{escape(alignment.reference)}</code>, from what the streams hold.</p>"
    return f"{words}<table class='plain'><tr>{head}</tr>{rows}</table>"


def _clock(offset: Offset, is_off: bool) -> str:
    cells = (show_late(offset), show_drift(offset), f"{max(offset.confidence, 0):.2f}")
    name = f"<td{' class=warning' if is_off else ''}>{escape(offset.sensor)}</td>"
    return f"<tr>{name}{''.join(f'<td>{c}</td>' for c in cells)}<td class='words'>{escape(offset.reason)}</td></tr>"


def _drawn(log: SensorLog, findings: Sequence[Finding]) -> str:
    mine = [f for f in findings if f.log == log.name and f.start_s is not None and f.stop_s is not None]
    spans = {name: [] for name in log.sensors}
    for f in mine:
        for name in [f.sensor] if f.sensor else list(log.sensors):
            spans.setdefault(name, []).append((f.start_s, f.stop_s, f"{f.kind}: {f.message}"))
    first = min((f.start_s for f in mine if f.start_s is not None), default=None)
    begin = min(info.start_s for info in log.sensors.values())
    start = None if first is None or first < begin + SECONDS / 2 else first - SECONDS / 4
    try:
        return recording(log, list(log.sensors), SECONDS, faults=spans, start_s=start)
    except LogError as error:
        return f"<p>{escape(str(error))}</p>"
