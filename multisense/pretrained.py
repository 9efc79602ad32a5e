"""A model as a folder or a repository of the Hugging Face Hub: `config.json`, `model.safetensors`, `README.md`.

By huggingface_hub's ModelHubMixin, not its PyTorchModelHubMixin: that one would unpickle `pytorch_model.bin` where the
safetensors are missing, and leaves keys that do not fit unsaid. Loading runs nothing that the folder holds: the settings
are parsed by this package and cause no import (a kind of sensor from outside it must have been imported before), the
weights are safetensors, and every missing, unexpected or mis-shaped key is an error.
The normalisation statistics are buffers of the tokenizers and so among the weights.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self, cast

from huggingface_hub import HfApi, ModelCard, ModelHubMixin, snapshot_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, OfflineModeIsEnabled
from torch import nn

from multisense.config import ConfigError
from multisense.weights import load_strictly, save_tensors

FORMAT = "multisense-model"
VERSION = 1
CONFIG, WEIGHTS, CARD = "config.json", "model", "README.md"
NO_RESULTS = "No evaluation is recorded with these weights."
NO_TRAINING = "How these weights were trained is not recorded with them."
OURS = "library_name: multisense", "prediction with the Python package `multisense`. Clips of "
"""What is in every card that is made here."""
TEMPLATE = """---
{{ card_data }}
---

# {{ title }}

One representation of several synchronized senses of a body, learned without labels by cross-modal masked latent
prediction with the Python package `multisense`. Clips of {{ seconds }} s; {{ parameters }} parameters.

{{ sensors }}

## Use

```python
from multisense.logs import open_logs
from multisense.model import MultiSense

model = MultiSense.from_pretrained("{{ name }}")
for log in open_logs("logs/"):
    print(log.name, model.embed(log).fused.shape)  # (windows, {{ features }})
```

Logs must have sensors of these names, shapes and rates; a sensor that is absent is masked, never guessed. The mean and
deviation that normalise each sensor are among the weights. Nothing in this repository is executed.

## Results

{{ results }}

## Training

{{ training }}
"""


class Pretrained(
    ModelHubMixin, library_name="multisense", model_card_template=TEMPLATE, tags=["multimodal", "robotics"]
):
    """What a model with `settings()` and `of_settings(tree)` gains: `save_pretrained(folder)`, `push_to_hub(name)` and
    `from_pretrained(folder or name)`.

    The first two are as huggingface_hub's mixin has them, but that a card does not outlive the weights it tells of, and
    that `push_to_hub` refuses a repository as `make_repository` does.
    """

    def settings(self) -> dict[str, Any]:
        raise NotImplementedError(f"{type(self).__name__} must define settings()")

    @classmethod
    def of_settings(cls, tree: Mapping[str, Any]) -> Self:
        raise NotImplementedError(f"{cls.__name__} must define of_settings()")

    def _save_pretrained(self, save_directory: Path) -> None:
        body = {"format": FORMAT, "version": VERSION, **self.settings()}
        (save_directory / CONFIG).write_text(json.dumps(body, indent=1) + "\n")
        weights, card = save_directory / f"{WEIGHTS}.safetensors", save_directory / CARD
        before = _digest(weights) if weights.exists() else None
        save_tensors(cast(nn.Module, self).state_dict(), weights)
        if before is not None and before != _digest(weights) and card.exists() and is_card(card):
            card.unlink()  # it tells of other weights; the mixin writes one where there is none

    def push_to_hub(self, repo_id: str, *, private: bool | None = None, token: str | None = None, **given: Any) -> str:
        """Put the model into a repository of the Hub; returns the address of the commit. Raises ValueError as
        `make_repository` does."""
        repo_id = make_repository(HfApi(token=token), repo_id, private)
        return super().push_to_hub(repo_id, private=private, token=token, **given)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        *,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
        token: str | bool | None = None,
    ) -> Self:
        """The model of a folder, or of OWNER/NAME on the Hub through its cache, in evaluation mode on the CPU.

        Raises ConfigError where there is none, its settings are not of this format, or its weights do not fit them: cut
        short, missing, unexpected or of another shape, key by key.
        """
        folder = Path(pretrained_model_name_or_path)
        if not folder.is_dir():
            where = {"revision": revision, "cache_dir": cache_dir, "token": token}
            how = {"force_download": force_download, "local_files_only": local_files_only}
            folder = _download(str(pretrained_model_name_or_path), **where, **how)
        settings = read_settings(folder)
        try:
            model = cls.of_settings(settings)
        except (KeyError, TypeError, AttributeError) as error:
            raise ConfigError(
                f"{folder / CONFIG}: found {type(error).__name__} {error}; expected seconds, model, sensors and grids as "
                "`save_pretrained` writes them. Download it again."
            ) from error
        module = cast(nn.Module, model)
        load_strictly(module, folder, WEIGHTS)
        module.eval()
        return model

    def generate_model_card(self, *args: Any, **kwargs: Any) -> ModelCard:
        """The card of the model; `name`, `results` and `training` (Markdown) fill in what it cannot know itself."""
        tree, module = self.settings(), cast(nn.Module, self)
        known = {
            "name": "OWNER/NAME",
            "title": "A multisense model",
            "seconds": f"{tree['seconds']:g}",
            "parameters": f"{sum(p.numel() for p in module.parameters()):,}",
            "features": 2 * tree["model"]["width"] * len(tree["sensors"]),
            "sensors": _sensor_table(tree["grids"]),
            "results": NO_RESULTS,
            "training": NO_TRAINING,
        }
        return super().generate_model_card(*args, **{**known, **kwargs})


def make_repository(api: HfApi, name: str, private: bool | None) -> str:
    """Make the repository OWNER/NAME of the Hub where it is not there; returns its name, with the owner where none was given.

    Raises ValueError where it is there and public although `private` is asked for, or its card was written by hand and
    would be replaced.
    """
    name = api.create_repo(name, private=private, exist_ok=True).repo_id
    if private and not api.repo_info(name).private:
        raise ValueError(
            f"{name}: is on the Hub already and public, expected a private or a new one; nothing was uploaded. Make it "
            "private in its settings there, or choose another name"
        )
    if api.file_exists(name, CARD) and not is_card(Path(api.hf_hub_download(name, CARD))):
        raise ValueError(
            f"{name}: has a {CARD} that multisense did not make and would replace; nothing was uploaded. Delete or rename "
            "it there, or choose another name"
        )
    return name


def is_card(file: Path) -> bool:
    """Whether a README.md is a model card that was made here."""
    text = file.read_text(errors="replace")
    return all(mark in text for mark in OURS)


def _digest(file: Path) -> bytes:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").digest()


def read_settings(folder: Path) -> dict[str, Any]:
    """`config.json` of a published model. Raises ConfigError where it is missing or of something else."""
    file = folder / CONFIG
    fix = "Expected what `multisense publish RUN -o DIR` writes"
    try:
        tree = json.loads(file.read_text())
    except FileNotFoundError:
        raise ConfigError(f"{folder}: no {CONFIG}. {fix}") from None
    except ValueError as error:
        raise ConfigError(f"{file}: not readable as JSON ({error}). {fix}") from error
    found = tree.get("format") if isinstance(tree, dict) else type(tree).__name__
    if found != FORMAT:
        raise ConfigError(f"{file}: found format {found!r}, expected '{FORMAT}'. {fix}")
    if tree.get("version") != VERSION:
        raise ConfigError(f"{file}: found version {tree.get('version')!r}, expected {VERSION}; update multisense")
    return tree


def _download(name: str, **how: Any) -> Path:
    try:
        return Path(snapshot_download(name, allow_patterns=[CONFIG, f"{WEIGHTS}*.safetensors"], **how))
    except (HfHubHTTPError, EntryNotFoundError, HFValidationError, OfflineModeIsEnabled) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise ConfigError(
            f"{name}: found no such folder, and no such model on the Hub or in its cache ({reason}); expected the folder "
            f"of a published model, or OWNER/NAME. For a private one log in first: hf auth login. Without a network: "
            f"`hf download {name}` on a machine that has one, and copy its cache (HF_HUB_CACHE) here."
        ) from error


def _sensor_table(grids: Mapping[str, Mapping[str, Any]]) -> str:
    """A Markdown table of what the model takes in."""
    rows = ["| sensor | kind | rate (Hz) | sample | unit |", "|---|---|---|---|---|"]
    for name, grid in grids.items():
        shape = " x ".join(map(str, grid["shape"])) or "scalar"
        cells = [f"`{name}`", grid["kind"], f"{grid['rate_hz']:g}", shape, grid["units"] or "-"]
        rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows)
