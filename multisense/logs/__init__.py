"""Sensor logs: the native format and foreign ones read in place, behind one interface."""

from multisense.logs.base import LogError, SensorLog
from multisense.logs.importing import import_logs
from multisense.logs.native import NativeLog, Recording, write_log
from multisense.logs.open import open_log, open_logs, survey_logs
from multisense.logs.recorder import LogWriter, RecorderWarning

__all__ = [
    "LogError",
    "LogWriter",
    "NativeLog",
    "RecorderWarning",
    "Recording",
    "SensorLog",
    "import_logs",
    "open_log",
    "open_logs",
    "survey_logs",
    "write_log",
]
