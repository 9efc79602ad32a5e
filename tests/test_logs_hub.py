"""Data sets of the Hub: names, a cache laid out as huggingface_hub lays it out, and no network."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from multisense.logs import LogError
from multisense.logs.hub import HubDataset, parse, recognises, resolve

pytest.importorskip("huggingface_hub")

SHAS = {"main": "a" * 40, "v2.1": "b" * 40}
COMMIT_HASH = "c" * 40


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two revisions of lab/arm: files in blobs/, named by links in snapshots/, branches and tags in refs/."""
    repo = tmp_path / "datasets--lab--arm"
    for folder in ("refs", "blobs"):
        (repo / folder).mkdir(parents=True)
    for number, (name, sha) in enumerate(SHAS.items()):
        (repo / "refs" / name).write_text(sha)
        (repo / "blobs" / str(number)).write_text(json.dumps({"codebase_version": name}))
        (repo / "snapshots" / sha / "meta").mkdir(parents=True)
        (repo / "snapshots" / sha / "meta" / "info.json").symlink_to(f"../../../blobs/{number}")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    return tmp_path


def version(folder: Path) -> str:
    return json.loads((folder / "meta/info.json").read_text())["codebase_version"]


def test_names() -> None:
    assert recognises("hf://datasets/lab/arm")
    assert not recognises("logs/hf")
    assert parse("hf://datasets/lab/arm") == HubDataset("lab/arm")
    assert parse("hf://datasets/lab/arm/") == HubDataset("lab/arm")
    assert parse("hf://datasets/lab-1/arm_2.x@refs/pr/3") == HubDataset("lab-1/arm_2.x", "refs/pr/3")


@pytest.mark.parametrize(
    "uri",
    [
        "hf://lab/arm",
        "hf://models/lab/arm",
        "hf://datasets/arm",
        "hf://datasets/../arm",
        "hf://datasets/lab/arm/data/x.parquet",
        "hf://datasets/lab/arm@",
        "hf://datasets/lab/arm@../../x",
        "hf://datasets/a--b/arm",
        "hf://datasets//etc/passwd",
        "hf://datasets/lab/arm\n",
    ],
)
def test_what_is_no_name(uri: str) -> None:
    with pytest.raises(LogError, match=r"found no data set's name; expected hf://datasets/OWNER/NAME\[@REVISION\]"):
        parse(uri)


def test_the_cache_answers_without_a_network(cache: Path) -> None:
    folder = resolve("hf://datasets/lab/arm")
    assert folder == cache / "datasets--lab--arm" / "snapshots" / SHAS["main"]
    assert version(folder) == "main"


def test_revisions(cache: Path) -> None:
    assert version(resolve("hf://datasets/lab/arm@v2.1")) == "v2.1"
    assert version(resolve(f"hf://datasets/lab/arm@{SHAS['v2.1']}")) == "v2.1"


@pytest.mark.parametrize("name", ["lab/leg", "lab/arm@v9", f"lab/arm@{COMMIT_HASH}"])
def test_what_the_cache_lacks(cache: Path, name: str) -> None:
    with pytest.raises(LogError, match=rf"hf://datasets/{name}: found it not in the cache, and no way") as error:
        resolve(f"hf://datasets/{name}")
    repo, _, revision = name.partition("@")
    command = f"hf download --repo-type dataset {repo}" + (f" --revision {revision}" if revision else "")
    assert f"run `{command}`" in str(error.value)


@pytest.mark.slow
def test_the_environment_is_respected(cache: Path) -> None:
    """HF_HUB_OFFLINE and HF_HUB_CACHE are read when huggingface_hub is imported, so by a process of its own."""
    program = "import sys; from multisense.logs.hub import resolve; print(resolve(sys.argv[1]))"
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(cache)}
    command = [sys.executable, "-c", program, "hf://datasets/lab/arm"]
    root = Path(__file__).parents[1]
    done = subprocess.run(command, env=environment, cwd=root, capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip().endswith(SHAS["main"])


def failing(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def download(*_: object, **__: object) -> str:
        raise error

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)


def test_errors_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    httpx = pytest.importorskip("httpx")
    from huggingface_hub import errors

    response = httpx.Response(404, request=httpx.Request("GET", "https://example.org"))
    for kind, message in (
        (errors.RepositoryNotFoundError, "no such data set on the Hub"),
        (errors.GatedRepoError, "a gated data set"),
        (errors.RevisionNotFoundError, "no revision 'v9'"),
        (errors.HfHubHTTPError, r"a download that failed \(bad day\)"),
    ):
        failing(monkeypatch, kind("bad day", response=response))
        with pytest.raises(LogError, match=message):
            resolve("hf://datasets/lab/arm@v9")
    failing(monkeypatch, OSError("disk full"))
    with pytest.raises(LogError, match=r"a download that failed \(disk full\)"):
        resolve("hf://datasets/lab/arm")
