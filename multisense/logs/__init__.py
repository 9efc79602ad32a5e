"""Sensor logs: the native format and foreign ones read in place, behind one interface."""

from multisense.logs.base import LogError, SensorLog
from multisense.logs.native import NativeLog, Recording, write_log
from multisense.logs.open import open_log, open_logs, survey_logs

__all__ = ["LogError", "NativeLog", "Recording", "SensorLog", "open_log", "open_logs", "survey_logs", "write_log"]
