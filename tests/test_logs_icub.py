"""The iCub recipe on the real text files."""

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from multisense.logs import LogError, open_log, open_logs


@pytest.fixture(scope="module")
def recipe() -> ModuleType:
    path = Path(__file__).parents[1] / "datasets" / "icub_grasp" / "make_logs.py"
    spec = importlib.util.spec_from_file_location("icub_make_logs", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_reliable_trial_becomes_a_log(realdata: Path, tmp_path: Path, recipe: ModuleType) -> None:
    raw, out = realdata / "icub_grasp", tmp_path / "out"
    count = recipe.make_logs(raw, out)
    reliable = [file for file in (raw / "iCubGraspDataset").glob("*.txt") if not file.name.startswith("full_coke")]
    train, test = open_logs(out / "train"), open_logs(out / "test")
    assert count == {"train": len(train), "test": len(test)}
    assert len(train) + len(test) == len(reliable)
    assert "Copyright 2012 Harold Soh" in (out / "README.txt").read_text()
    for log in [*train, *test]:
        label = log.labels["object"]
        assert log.name.startswith(label.classes[int(label.data)])
        assert (log.sensors["touch"].shape, log.sensors["hand"].shape) == ((5, 12, 1), (9,))
        assert log.sensors["touch"].count == log.sensors["hand"].count >= 4
        assert "Index time" in getattr(log, "source", "")
    for logs in (train, test):
        assert len({int(log.labels["object"].data) for log in logs}) == 10


def test_the_numbers_are_those_of_the_file(realdata: Path, tmp_path: Path, recipe: ModuleType) -> None:
    recipe.make_logs(realdata / "icub_grasp", tmp_path / "out", ("book",))
    log = open_log(tmp_path / "out" / "train" / "book_11.h5")
    touch, hand = log.read("touch", 0, 0.15), log.read("hand", 0, 0.15)
    np.testing.assert_allclose(hand.data[0, :3], [21.2728, 79.9505, 13.8423])
    np.testing.assert_allclose(hand.data[1, :2], [21, 79.8389])
    assert touch.data[0, 0, :4, 0].tolist() == [242, 241, 236, 242]
    assert touch.data[0, 4, -1, 0] == 244
    assert touch.times_s.tolist() == [0.0, 0.1]
    # The line that the recipe leaves out: each finger's max(255 - reading), sampled by the source a moment apart.
    firmest = (255 - touch.data[0, :, :, 0].astype(int)).max(axis=1)
    np.testing.assert_allclose(firmest, [19, 16, 18, 13, 11], atol=1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("-10000\n1 2 3\n", "found 2 lines; expected -10000"),
        ("-10000\n" + "1\n" * 7, r"found lines of \[\(1, 1, .*9, 5 and"),
    ],
)
def test_a_file_of_another_form_is_named(tmp_path: Path, recipe: ModuleType, text: str, message: str) -> None:
    (tmp_path / "book_1.txt").write_text(text)
    with pytest.raises(LogError, match=rf"book_1\.txt: {message}"):
        recipe.read_trial(tmp_path / "book_1.txt")


def test_a_folder_without_the_data_is_named(tmp_path: Path, recipe: ModuleType) -> None:
    with pytest.raises(LogError, match=r"found no iCubGraspDataset/\*\.txt"):
        recipe.make_logs(tmp_path, tmp_path / "out")
