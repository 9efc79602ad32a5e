"""Whether a model learns, from held-out clips and without labels: what the loss alone does not say."""

from multisense.health.alarms import Alarm, alarms
from multisense.health.clips import HeldOut, held_out
from multisense.health.measure import Health, measure

__all__ = ["Alarm", "Health", "HeldOut", "alarms", "held_out", "measure"]
