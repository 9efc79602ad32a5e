"""The records check themselves once, and print as shapes."""

from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import torch

from multisense.types import Batch, Clip, Label, Stream, TokenBatch, TokenLayout


def batch() -> Batch:
    values = {"eye": torch.zeros(2, 5, 8, 8, 3, dtype=torch.uint8), "arm": torch.ones(2, 10, 3)}
    valid = {"eye": torch.ones(2, 5, dtype=torch.bool), "arm": torch.ones(2, 10, dtype=torch.bool)}
    return Batch(values, valid, ("a", "b"), (0.0, 1.0))


def test_stream_needs_one_time_per_sample():
    with pytest.raises(ValueError, match=r"stream 'arm': expected one time per sample, found \(3,\) times .* \(4, 2\)"):
        Stream("arm", np.arange(3.0), np.zeros((4, 2)), 10.0)


@pytest.mark.parametrize(
    ("valid", "found"),
    [
        ({}, "found nothing"),
        ({"arm": torch.ones(10)}, r"found torch.float32\(10,\)"),
        ({"arm": torch.ones(9, dtype=torch.bool)}, r"found torch.bool\(9,\)"),
    ],
    ids=["no mask", "not bool", "too short"],
)
def test_a_clip_needs_a_bool_mask_for_every_sensor(valid: dict, found: str):
    with pytest.raises(ValueError, match=rf"clip: sensor 'arm' has values of shape \(10, 3\); .*{found}"):
        Clip("log", 0.0, {"arm": torch.zeros(10, 3)}, valid)


def test_tokens_validity_and_layout_must_fit_together():
    layout = TokenLayout(torch.zeros(5), torch.zeros(5, 2), torch.zeros(5, dtype=torch.long), ("arm",))
    with pytest.raises(ValueError, match=r"tokens \(2, 6, 4\), valid \(2, 6\) and a layout of 5 tokens"):
        TokenBatch(torch.zeros(2, 6, 4), torch.ones(2, 6, dtype=torch.bool), layout)
    with pytest.raises(ValueError, match="do not fit together"):
        TokenBatch(torch.zeros(2, 5, 4), torch.ones(2, 4, dtype=torch.bool), layout)


def test_only_marks_the_other_sensors_absent_and_leaves_the_original_alone():
    whole = batch()
    few = whole.only(["arm"])
    assert few.valid["arm"].all()
    assert not few.valid["eye"].any()
    assert whole.valid["eye"].all()
    assert whole.only(None) is whole
    assert (few.logs, few.starts_s) == (whole.logs, whole.starts_s)


def test_only_names_a_sensor_that_is_not_there():
    with pytest.raises(ValueError, match=r"no sensor \['nose'\] here; there are \['arm', 'eye'\]"):
        batch().only(["arm", "nose"])


def test_records_are_frozen():
    with pytest.raises(FrozenInstanceError):
        batch().logs = ()


def test_a_record_prints_its_shapes_not_its_data():
    shown = repr(batch())
    assert "eye: uint8(2, 5, 8, 8, 3)" in shown
    assert "arm: bool(2, 10)" in shown
    assert len(shown) < 300
    assert len(batch()) == 2


def test_moving_a_batch_keeps_its_masks_and_names():
    moved = batch().to("cpu")
    assert moved.logs == ("a", "b")
    assert moved.valid["eye"].dtype == torch.bool


@pytest.mark.parametrize(("data", "is_class"), [(np.array(1), True), (np.array([0.5]), False), (np.uint8(3), True)])
def test_integer_labels_are_classes(data: np.ndarray, is_class: bool):
    assert Label("material", np.asarray(data)).is_class is is_class
