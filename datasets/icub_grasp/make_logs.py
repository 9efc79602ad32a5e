"""Turn the raw text files of the iCub Grasp Dataset into native logs.

    python datasets/icub_grasp/make_logs.py RAW OUT

RAW is a copy of the source repository (README.txt and iCubGraspDataset/). OUT gets `train/` and `test/`, one log per
trial, and the source's README.txt, whose copyright note has to go with the data.
"""

import argparse
import shutil
from pathlib import Path

import numpy as np

from multisense.logs import LogError, Recording, write_log
from multisense.types import Label

OBJECTS = (
    "blue_bear",
    "book",
    "empty_coke",
    "empty_vitamin_water",
    "full_vitamin_water",
    "lotion",
    "med_coke",
    "med_vitamin_water",
    "monkey_toy",
    "none",
)
"""The classes of the label `object`, in order."""

UNRELIABLE = "full_coke"
"""The source's README: "this data should not be considered reliable"."""

RATE_HZ = 10.0
"""Made up: the source states no rate and holds no time stamps. Slice k is put at k / 10 s."""

SOURCE = (
    "iCub Grasp Dataset, Copyright 2012 Harold Soh. Index time: the source has no time stamps and states no rate; "
    "slice k is put at k / 10 s, so seconds here only count slices."
)

LINES_PER_SLICE = 7
FINGERS, TAXELS, JOINTS = 5, 12, 9
HELD_OUT_EVERY = 5
"""Trials 5, 10, 15, ... of every object are the test logs."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("raw", type=Path, help="folder with README.txt and iCubGraspDataset/")
    parser.add_argument("out", type=Path, help="folder to write train/ and test/ into; must not exist")
    parser.add_argument("--with-unreliable", action="store_true", help=f"keep {UNRELIABLE} as an eleventh class")
    arguments = parser.parse_args()
    objects = (*OBJECTS, UNRELIABLE) if arguments.with_unreliable else OBJECTS
    count = make_logs(arguments.raw, arguments.out, objects)
    print(f"{count['train']} train and {count['test']} test logs of {len(objects)} classes in {arguments.out}")


def make_logs(raw: Path, out: Path, objects: tuple[str, ...] = OBJECTS) -> dict[str, int]:
    """Write one log per trial of `objects`; returns how many went to "train" and to "test"."""
    files = sorted((raw / "iCubGraspDataset").glob("*.txt"))
    if not files:
        raise LogError(f"{raw}: found no iCubGraspDataset/*.txt; expected a copy of the source repository.")
    out.mkdir(parents=True)
    shutil.copy(raw / "README.txt", out / "README.txt")
    count = {"train": 0, "test": 0}
    for file in files:
        name, _, trial = file.stem.rpartition("_")
        if name not in objects:
            continue
        part = "test" if int(trial) % HELD_OUT_EVERY == 0 else "train"
        write_trial(
            file,
            out / part / f"{name}_{int(trial):02d}.h5",
            Label("object", np.array(objects.index(name)), None, "unique", objects),
        )
        count[part] += 1
    return count


def write_trial(file: Path, out: Path, label: Label) -> None:
    """One grasp: `touch` (N, 5 fingers, 12 taxels, 1) uint8 and `hand` (N, 9) joint encoders."""
    joints, taxels = read_trial(file)
    times = np.arange(len(joints)) / RATE_HZ
    channels = tuple(f"joint_{number}" for number in range(7, 7 + JOINTS))
    recordings = {
        "touch": Recording("touch", RATE_HZ, taxels, times, units="raw reading, 255 = no contact"),
        "hand": Recording("proprio", RATE_HZ, joints, times, channels=channels),
    }
    write_log(out, recordings, [label], SOURCE)


def read_trial(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """((N, 9) float32 joint encoders, (N, 5, 12, 1) uint8 taxel readings) of one raw file.

    A slice is seven lines: joints, a maximum per finger (left out: it repeats the taxels), five fingers of taxels.
    """
    lines = [line.split() for line in file.read_text().splitlines() if line.strip()]
    if not lines or lines[0] != ["-10000"] or len(lines) % LINES_PER_SLICE != 1:
        raise LogError(f"{file}: found {len(lines)} lines; expected -10000 and then {LINES_PER_SLICE} per time slice.")
    slices = [lines[start : start + LINES_PER_SLICE] for start in range(1, len(lines), LINES_PER_SLICE)]
    widths = {tuple(len(line) for line in lines_) for lines_ in slices}
    if widths != {(JOINTS, FINGERS, *[TAXELS] * FINGERS)}:
        raise LogError(f"{file}: found lines of {sorted(widths)} numbers; expected 9, 5 and five times 12.")
    joints = np.array([lines_[0] for lines_ in slices], np.float32)
    taxels = np.array([lines_[2:] for lines_ in slices], np.float32)
    if (taxels != np.clip(np.round(taxels), 0, 255)).any():
        raise LogError(f"{file}: found taxel readings {taxels.min()} to {taxels.max()}; expected whole numbers to 255.")
    return joints, taxels.astype(np.uint8)[..., None]


if __name__ == "__main__":
    main()
