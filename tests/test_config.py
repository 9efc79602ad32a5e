"""A wrong configuration names the key path, what was expected, what was found, and the nearest valid name."""

from pathlib import Path

import pytest
from conftest import body_log, body_tree
from pydantic import ValidationError

from multisense.config import ConfigError, parse, read_tree, suggest
from multisense.model import ModelConfig
from multisense.run import RunConfig, create_run, load_config, make_grids, parse_config, provenance, read_run

YAML = """
data: {train: logs}
sensors:
  eye: {kind: video, patch: 8}
model: {width: 64}
"""


@pytest.fixture
def yaml(tmp_path: Path) -> Path:
    file = tmp_path / "run.yaml"
    file.write_text(YAML)
    return file


def test_the_file_then_the_overrides(yaml: Path):
    config = load_config(yaml, ["model.depth=6", "sensors.eye.patch=4", "train.learning_rate=1e-4", "data.test=null"])
    assert (config.model.width, config.model.depth) == (64, 6)
    assert config.sensors["eye"].model_dump()["patch"] == 4
    assert config.train.learning_rate == 1e-4
    assert config.data.test is None


def test_an_override_may_bring_a_sensor_that_the_file_lacks(yaml: Path):
    config = load_config(yaml, ["sensors.ear.kind=audio", "sensors.ear.mels=32"])
    assert list(config.sensors) == ["eye", "ear"]
    assert config.sensors["ear"].model_dump()["mels"] == 32


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("model.dept=6", "model.dept: unknown key; did you mean 'depth'?"),
        ("trian.steps=6", "trian: unknown key; did you mean 'train'?"),
        ("objective.masks.causl=1", "objective.masks.causl: unknown key; did you mean 'causal'?"),
        ("objective.masks.alone=[aye]", "objective.masks.alone: 'aye' is no sensor of the run; did you mean 'eye'?"),
        ("sensors.eye.pach=8", "sensors.eye.pach: unknown key; did you mean 'patch'?"),
        ("model.zzzz=1", "model.zzzz: unknown key; known: depth, heads, mlp_ratio, step_s, weights, width"),
        ("model.depth=deep", "model.depth: input should be a valid integer"),
        ("model.depth=deep", "found 'deep'"),
        ("model.depth=0", "model.depth: input should be greater than 0; found 0"),
        ("train.steps=2.5", "train.steps: input should be a valid integer"),
        ("train.schedule=linear", "train.schedule: input should be 'cosine' or 'constant'; found 'linear'"),
        ("data.train=5", "data.train: input should be a valid string; found 5"),
        ("model=5", "model: input should be a valid dictionary or instance of ModelConfig; found 5"),
        ("sensors.eye.stem=cnn", "sensors.eye.stem: input should be 'patch', 'mlp' or 'conv'; found 'cnn'"),
        ("sensors.eye.kind=vidoe", "sensors.eye.kind: unknown modality 'vidoe'; did you mean 'video'?"),
        ("sensors.eye.kind=os.path", "sensors.eye.kind: expected the name of a modality, found 'os.path'"),
        ("sensors.eye=5", "sensors.eye.kind: missing; expected a mapping with the sensor's modality, found 5"),
        ("sensors.ear.mels=5", "sensors.ear.kind: missing"),
        ("sensors=null", "sensors: expected a mapping of sensor names to settings, found None"),
        ("data.train=null", "data.train: input should be a valid string; found None"),
        ("model.depth=true", "model.depth: value error, input should be a number; found True"),
        ("data.in_memory=5", "data.in_memory: input should be a valid boolean"),
        ("model.depth", "override 'model.depth': expected key.path=value, for example model.depth=6"),
        ("=3", "override '=3': expected key.path=value"),
        ("model.depth=[1", "override 'model.depth=[1':"),
        ("model.depth=${nowhere}", "Interpolation key 'nowhere' not found"),
    ],
)
def test_a_wrong_override_is_told(yaml: Path, override: str, text: str):
    with pytest.raises(ConfigError) as caught:
        load_config(yaml, [override])
    assert text in str(caught.value)


def test_every_mistake_is_told_at_once():
    with pytest.raises(ConfigError) as caught:
        parse(ModelConfig, {"width": "wide", "deph": 3}, at="model")
    lines = str(caught.value).splitlines()
    assert [line.split(":")[0] for line in lines] == ["model.width", "model.deph"]


def test_what_has_no_default_must_be_given():
    with pytest.raises(ConfigError, match=r"data.train: missing; it has no default"):
        parse_config({"data": {}, "sensors": {"eye": {"kind": "video"}}})
    with pytest.raises(ConfigError, match=r"^data: missing; it has no default"):
        parse_config({"sensors": {"eye": {"kind": "video"}}})
    with pytest.raises(ConfigError, match=r"^sensors: expected a mapping .* found None"):
        parse_config({"data": {"train": "x"}})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a\n- b\n", "expected a YAML mapping at the top, found list"),
        ("data: [1, 2\n", "not readable as YAML"),
        ("data: {train: '${'}\n", "not readable as YAML"),
        (b"\xff\xfe\xfa", "not readable as YAML"),
        (None, "no such configuration file"),
    ],
    ids=["list", "syntax", "grammar", "binary", "nothing"],
)
def test_a_file_that_is_no_configuration_is_told(tmp_path: Path, text: str | bytes | None, message: str):
    file = tmp_path / "run.yaml"
    if text is not None:
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError) as caught:
        read_tree(file)
    assert str(file) in str(caught.value)
    assert message in str(caught.value)


def test_a_configuration_is_frozen(body_config: RunConfig):
    with pytest.raises(ValidationError, match="frozen"):
        body_config.train.steps = 5
    with pytest.raises(ValidationError, match="frozen"):
        body_config.sensors["eye"].stem = "mlp"


def test_a_configuration_survives_its_run_folder(tmp_path: Path):
    tree = body_tree(steps=7, learning_rate=3e-4)
    tree["sensors"]["pad"]["log_scale"] = 0.1
    tree["sensors"]["eye"]["size"] = [16, 16]
    config, logs = parse_config(tree), [body_log(0)]
    grids = make_grids(config, logs)
    create_run(tmp_path / "run", config, grids, provenance(config, logs))
    again, grids_again, _ = read_run(tmp_path / "run")
    assert again == config
    assert {name: type(sensor) for name, sensor in again.sensors.items()} == {
        name: type(sensor) for name, sensor in config.sensors.items()
    }
    assert grids_again == grids


def test_suggest_names_the_nearest_or_all():
    assert suggest("dpeth", ["width", "depth"]) == "did you mean 'depth'?"
    assert suggest("qqq", ["width", "depth"]) == "known: depth, width"


@pytest.mark.parametrize("file", sorted((Path(__file__).parents[1] / "configs").glob("*.yaml")), ids=lambda f: f.name)
def test_every_shipped_configuration_can_be_read(file: Path):
    assert load_config(file).sensors
