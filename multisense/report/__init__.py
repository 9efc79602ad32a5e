"""One self-contained page about a run: what was recorded, what was learned, which sense carries it, what breaks it."""

from multisense.report.make import report, report_path

__all__ = ["report", "report_path"]
