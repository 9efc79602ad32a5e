"""What the data is: the sensors, and one recording with every stream on one time axis, playing where a browser can."""

import base64
from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from multisense.inspect.info import show_hours
from multisense.inspect.pictures import LEFT, RIGHT, WIDTH, drawn_as, recording, shown_span
from multisense.logs.base import SensorLog
from multisense.report.film import film
from multisense.report.tables import Cell, Table, draw, number

SECONDS = 8.0
MARK = "contact"


def data_section(logs: Sequence[SensorLog], sensors: Sequence[str], tokens: Mapping[str, int]) -> str:
    """The sensors of `logs` as a table, `tokens` a clip each, and the recording in which most happens."""
    log = busiest(logs)
    infos = [log.sensors[name] for name in sensors if name in log.sensors]
    start, stop = shown_span(infos, SECONDS)
    media = film(log, sensors, (start, stop))
    words = (
        f"One recording, <code>{escape(log.name)}</code>: every sense on its own clock and at its own rate, drawn on one "
        "time axis."
    )
    how = " Play it, or click into the streams, and the line moves with it." if media else ""
    geometry = f"data-left='{LEFT}' data-right='{RIGHT}' data-width='{WIDTH}' data-seconds='{stop - start:.4f}'"
    drawn = recording(log, sensors, SECONDS)
    streams = (
        f"<div class='scroll streams' role='region' tabindex='0' aria-label='streams of {escape(log.name, quote=True)}' "
        f"{geometry}>{drawn}</div>"
    )
    shown = f"<div class='player'>{_video(log, sensors, media)}{streams}</div>"
    return f"{_sensors(logs, sensors, tokens)}<h3>A recording</h3><p>{words}{how}</p>{shown}"


def busiest(logs: Sequence[SensorLog]) -> SensorLog:
    """The recording in which the label MARK is on for most of the time, the first where no log has it: of a quiet one
    there is little to see."""
    known = [log for log in logs if MARK in log.labels and log.labels[MARK].is_class]
    return max(known, key=lambda log: float(np.mean(log.labels[MARK].data > 0))) if known else logs[0]


def _video(log: SensorLog, sensors: Sequence[str], media: bytes | None) -> str:
    if media is None:
        return ""
    kinds = {name: drawn_as(log.sensors[name]) for name in sensors if name in log.sensors}
    cameras = [name for name, kind in kinds.items() if kind == "frames"]
    heard = [name for name, kind in kinds.items() if kind == "sound"][:1]
    said = escape(" and ".join([*cameras, *heard]), quote=True)
    data = base64.b64encode(media).decode()
    small = "" if cameras else " class='sound'"
    return (
        f"<video{small} controls playsinline preload='metadata' aria-label='{said} of {escape(log.name, quote=True)}' "
        f"src='data:video/mp4;base64,{data}'></video>"
    )


def _sensors(logs: Sequence[SensorLog], sensors: Sequence[str], tokens: Mapping[str, int]) -> str:
    rows = []
    for name in sensors:
        infos = [log.sensors[name] for log in logs if name in log.sensors]
        if infos:
            seconds = sum(info.stop_s - info.start_s for info in infos)
            shape = " x ".join(str(n) for n in infos[0].shape) or "1"
            time = Cell(show_hours(seconds / 3600), (seconds,))
            rows.append(
                [Cell(name), Cell(infos[0].modality), Cell(shape), Cell(infos[0].dtype), number(infos[0].rate_hz, "g"),
                 Cell(infos[0].units or "-"), number(len(infos), "d"), time, number(tokens[name], "d")]
            )  # fmt: skip
    columns = ["sensor", "modality", "sample", "type", "Hz", "units", "logs", "time", "tokens a clip"]
    return draw(Table("sensors", f"The sensors in {len(logs)} held-out recordings", columns, rows))
