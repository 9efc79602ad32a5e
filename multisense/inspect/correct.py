"""What was found about the clocks, written down in the logs as metadata; no sample and no stamp is touched."""

from collections.abc import Sequence
from pathlib import Path

import h5py

from multisense.inspect.align import Alignment, Offset
from multisense.logs.base import SensorLog, log_error
from multisense.logs.native import NativeLog
from multisense.logs.pool import POOL

METHOD = "multisense align: whitened cross-covariance of activity"


def apply_offsets(logs: Sequence[SensorLog], alignment: Alignment, chosen: Sequence[str] = ()) -> list[str]:
    """Record every offset and every drift beyond its error in `/clock/<sensor>` of every log, on top of what stands there.

    A command leads what it causes and is left as it is, unless `chosen` names it.

    Returns the sensors corrected. Raises LogError, before anything is written, where a log is of a foreign format or an
    unfinished recording.
    """
    for log in logs:
        if not isinstance(log, NativeLog):
            fix = "Make native logs of it first: multisense import."
            raise log_error(log.path, f"a log that is read in place ({type(log).__name__})", "a native log", fix)
        if log.attributes.get("recording"):
            fix = "Close its writer; of a recording that was killed make a whole log first: multisense import."
            raise log_error(log.path, "an unfinished recording", "a log that was closed", fix)
    off = [offset for offset in alignment.offsets.values() if offset.is_off or offset.is_drifting]
    found = [offset for offset in off if not offset.is_command or offset.sensor in chosen]
    POOL.close()  # HDF5 does not write to a file that this process has open for reading
    for log in logs:
        with h5py.File(Path(log.path), "r+") as file:
            for offset in found:
                _record(file.require_group(f"clock/{offset.sensor}"), offset, alignment)
    return [offset.sensor for offset in found]


def _record(group: h5py.Group, offset: Offset, alignment: Alignment) -> None:
    """The correction that undoes an offset: t' = t + offset_s + drift_ppm 1e-6 (t - t0), see logs/clock.py."""
    gain = offset.drift_ppm if offset.is_drifting else 0.0
    at_start = offset.late_s - gain * 1e-6 * alignment.middle_s
    group.attrs["offset_s"] = float(group.attrs.get("offset_s", 0.0)) - at_start
    group.attrs["drift_ppm"] = float(group.attrs.get("drift_ppm", 0.0)) - gain
    group.attrs.update({"method": METHOD, "reference": alignment.reference, "confidence": offset.confidence})
