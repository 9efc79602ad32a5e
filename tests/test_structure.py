"""House rules, each held by a test: the order of the rooms, the sizes, no dead configuration, nothing that unpickles."""

import ast
import inspect
import re
from functools import cache
from pathlib import Path

import pytest

import multisense
from multisense.config import Config
from multisense.estimate.body import BodySensor
from multisense.logs.formats.mapping import MappedSensor, MappingConfig
from multisense.masking import MaskConfig
from multisense.modalities import kinds, modality
from multisense.modalities.base import SensorConfig
from multisense.model import ModelConfig
from multisense.objectives.latent import ObjectiveConfig
from multisense.run import DataConfig, RunConfig, TrainConfig

ROOT = Path(multisense.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
MAX_FILE_LINES, MAX_FUNCTION_LINES = 400, 60
CONFIGS = [
    MappingConfig,
    MappedSensor,
    BodySensor,
    DataConfig,
    TrainConfig,
    RunConfig,
    ModelConfig,
    MaskConfig,
    ObjectiveConfig,
    SensorConfig,
]
CONFIGS += [modality(kind).Config for kind in kinds()]


def name(file: Path) -> str:
    return file.relative_to(ROOT).as_posix()


@cache
def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(), name(file))


def imported(file: Path) -> list[str]:
    """Full names of the modules a file imports, lazily or not."""
    modules = []
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Import):
            modules += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name(file)}:{node.lineno}: relative import; write the whole name"
            modules += [f"{node.module}.{alias.name}" for alias in node.names]
    return modules


def room(file: Path) -> str:
    return file.relative_to(ROOT).parts[0].removesuffix(".py")


def test_every_room_is_in_the_order():
    rooms = {room(file) for file in FILES} - {"__init__", "__main__"}
    assert rooms == set(multisense.ROOMS)


@pytest.mark.parametrize("file", [f for f in FILES if not room(f).startswith("__")], ids=name)
def test_a_room_imports_only_from_rooms_above_it(file: Path):
    own = multisense.ROOMS.index(room(file))
    for module in imported(file):
        if module.startswith("multisense."):
            other = module.split(".")[1]
            assert other in multisense.ROOMS, f"{name(file)} imports {module}, which is no room"
            assert multisense.ROOMS.index(other) <= own, f"{name(file)} imports {module}, which stands below it"


@pytest.mark.parametrize("file", FILES, ids=name)
def test_files_and_functions_stay_small(file: Path):
    assert len(file.read_text().splitlines()) <= MAX_FILE_LINES
    for node in ast.walk(tree(file)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert node.end_lineno is not None
            lines = node.end_lineno - node.lineno + 1
            assert lines <= MAX_FUNCTION_LINES, f"{name(file)}: {node.name} has {lines} lines"


def test_accelerate_is_the_training_rooms_alone():
    users = {name(f) for f in FILES if any(m.split(".")[0] == "accelerate" for m in imported(f))}
    assert all(user.startswith("train/") for user in users)


FORBIDDEN = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}


@pytest.mark.parametrize("file", FILES, ids=name)
def test_nothing_unpickles_or_executes_what_a_file_says(file: Path):
    assert not {m.split(".")[0] for m in imported(file)} & FORBIDDEN
    for node in ast.walk(tree(file)):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        where = f"{name(file)}:{node.lineno}: {called}"
        assert called not in {
            "eval",
            "exec",
            "torch.load",
            "torch.save",
            "load_state",
            "yaml.load",
            "yaml.unsafe_load",
        }, where
        assert not called.endswith((".load_state", ".save_state", ".unsafe_load")), where
        if called == "np.load" or any(k.arg in ("allow_pickle", "weights_only") for k in node.keywords):
            assert all(
                isinstance(k.value, ast.Constant) and not k.value.value
                for k in node.keywords
                if k.arg == "allow_pickle"
            ), where


def fields_of_its_own(config: type[Config]) -> set[str]:
    """Fields that a class declares itself, not those it inherits."""
    return set(inspect.get_annotations(config)) & set(config.model_fields)


@cache
def attributes_read() -> frozenset[str]:
    return frozenset(
        node.attr
        for file in FILES
        for node in ast.walk(tree(file))
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
    )


def test_the_list_of_configurations_is_whole():
    found = {f"{c.__module__}.{c.__name__}" for c in subclasses(Config) if c.__module__.startswith("multisense.")}
    assert found == {f"{c.__module__}.{c.__name__}" for c in CONFIGS}


def subclasses(kind: type) -> set[type]:
    return {kind} - {Config} | {c for child in kind.__subclasses__() for c in subclasses(child)}


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{c.__module__.removeprefix('multisense.')}.{c.__name__}")
def test_no_configuration_is_dead(config: type[Config]):
    """Every key is read as an attribute somewhere in the package: a key that nothing reads is a promise not kept."""
    unread = fields_of_its_own(config) - attributes_read()
    assert not unread, f"{config.__module__}.{config.__name__}: nothing reads {sorted(unread)}"


MACHINE_PATH = re.compile(r"(?<![\w./~-])/(?:home|work|opt|root|mnt|tmp|Users|data|scratch)/\w")


def texts() -> list[Path]:
    root = ROOT.parent
    folders = ["multisense", "configs", "datasets", "tools", "tests"]
    found = [
        f for folder in folders for f in (root / folder).rglob("*") if f.suffix in (".py", ".yaml", ".md", ".toml")
    ]
    return sorted([*found, *root.glob("*.md"), *root.glob("*.toml")])


@pytest.mark.parametrize("file", texts(), ids=lambda f: f.relative_to(ROOT.parent).as_posix())
def test_no_file_names_a_place_on_one_machine(file: Path):
    lines = [f"{i}: {line}" for i, line in enumerate(file.read_text().splitlines(), 1) if MACHINE_PATH.search(line)]
    assert not lines


def test_every_public_function_and_class_of_the_line_says_what_it_is():
    missing = []
    for room_name in ("types", "clips", "model", "masking"):
        for node in tree(ROOT / f"{room_name}.py").body:
            is_public = isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_")
            if is_public and not ast.get_docstring(node) and not node.name.endswith("Config"):
                missing.append(f"{room_name}.{node.name}")
    assert not missing
