"""Where the viewer puts what was sent: what is seen on the left, what is heard and felt beside it, the run behind a tab."""

from collections.abc import Sequence

import rerun.blueprint as rrb

from multisense.inspect.pictures import drawn_as
from multisense.logs.base import SensorLog
from multisense.run import Run
from multisense.types import Label
from multisense.view.send import CLOCK, path
from multisense.view.tokens import is_camera


def blueprint(log: SensorLog, run: Run | None) -> rrb.Blueprint:
    """Of a log alone, or with what a run made of its windows."""
    recording = _recording(log)
    tabs = recording if run is None else rrb.Tabs(_learnt(run), recording, active_tab=0)
    return rrb.Blueprint(
        tabs,
        rrb.BlueprintPanel(state="collapsed"),
        rrb.SelectionPanel(state="collapsed"),
        rrb.TimePanel(state="collapsed", timeline=CLOCK),
    )


def _recording(log: SensorLog) -> rrb.Container:
    """Pictures and heat maps | everything over time."""
    seen: list[rrb.View] = []
    over_time: list[rrb.View] = []
    for info in log.sensors.values():
        kind, origin = drawn_as(info), path("streams", info.name)
        title = f"{info.name} ({info.units})" if info.units else info.name
        if kind == "frames":
            seen.append(rrb.Spatial2DView(origin=origin, name=info.name))
        elif kind == "taxels":
            seen.append(rrb.Spatial2DView(origin=f"{origin}/heat", name=title))
            over_time.append(_series(f"{origin}/strength", title))
        elif kind == "sound":
            over_time.append(rrb.Spatial2DView(origin=f"{origin}/mel", name=f"{info.name}: low to high tones (dB)"))
            over_time.append(_series(f"{origin}/envelope", title))
        else:
            over_time.append(_series(f"{origin}/values", title))
    over_time += _labels(log)
    about = rrb.TextDocumentView(origin="about", name="about")
    left = rrb.Vertical(rrb.Grid(*seen), about, row_shares=[3, 1]) if seen else about
    right = [rrb.Vertical(*over_time)] if over_time else []
    return rrb.Horizontal(left, *right, column_shares=[2, 3][: 1 + len(right)], name="recording")


def _series(origin: str, title: str) -> rrb.TimeSeriesView:
    return rrb.TimeSeriesView(origin=origin, name=title)


def _labels(log: SensorLog) -> list[rrb.View]:
    """Labels of one unit share a plot, for they share an axis; so do those that are classes."""
    plots: dict[str, list[Label]] = {}
    for label in log.labels.values():
        if label.times_s is not None:
            plots.setdefault("classes" if label.is_class else label.units, []).append(label)
    return [
        rrb.TimeSeriesView(
            origin="labels",
            contents=[f"+ {path('labels', label.name)}" for label in labels],
            name=f"labels ({unit})" if unit else "labels",
        )
        for unit, labels in plots.items()
    ]


def _learnt(run: Run) -> rrb.Container:
    """What the student is shown | what is named of it | what the embedding makes of it."""
    names = run.model.names
    masks = [rrb.Spatial2DView(origin=path("tokens", name), name=f"{name}: tokens kept") for name in names]
    cameras = [view for view, name in zip(masks, names, strict=True) if is_camera(run.model.tokenizer(name))]
    rasters = [view for view in masks if view not in cameras]
    embedding: Sequence[rrb.View] = [
        rrb.Spatial3DView(origin="embedding", contents=["+ $origin/path", "+ $origin/now"], name="embedding"),
        _series("embedding/components", "embedding: principal components"),
    ]
    shown = [rrb.Grid(*cameras)] if cameras else []
    columns: list[rrb.Container] = [rrb.Vertical(*shown, *rasters, row_shares=[3] * len(shown) + [1] * len(rasters))]
    if len(names) > 1:
        columns.append(
            rrb.Vertical(*(_series(path("prediction", name), f"error of naming {name} from") for name in names))
        )
    return rrb.Horizontal(*columns, rrb.Vertical(*embedding, row_shares=[3, 2]), name="run")
