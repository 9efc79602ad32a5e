"""A run as a folder that others can use, and the Hub can show: settings, weights, and a card with its true results."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from httpx import HTTPError
from huggingface_hub import HfApi
from huggingface_hub.errors import LocalTokenNotFoundError, OfflineModeIsEnabled
from huggingface_hub.utils import validate_repo_id

from multisense.checkpoint import warn_if_unfinished
from multisense.embed import weights_fingerprint
from multisense.evaluate.table import Tree, refuse_other
from multisense.model import MultiSense
from multisense.pretrained import NO_RESULTS, make_repository
from multisense.publish.card import PICTURE, results_section, training_section
from multisense.run import Run, open_run


@dataclass(frozen=True)
class Published:
    """The folder that was written, and the address of the commit that put it on the Hub, if it was."""

    folder: Path
    address: str | None

    def __str__(self) -> str:
        to_the_hub = f"to put it on the Hub: hf upload OWNER/NAME {self.folder}"
        return f"{self.folder}; {self.address or to_the_hub}"


def publish_path(
    run: Path, out: Path, ablation: Path | None = None, push: str | None = None, private: bool = False
) -> Published:
    """`publish` for the run in folder `run`; with `push`, OWNER/NAME, also to the Hub, where it is made if it is not there.

    Raises ValueError as `publish` does, for a name that the Hub does not take, and where the Hub cannot be reached, does not
    let one in, or has something there that must not be written to: the folder is whole then all the same.
    """
    if push is not None:
        validate_repo_id(push)
    opened = open_run(run)
    warn_if_unfinished(opened)
    publish(opened, out, ablation, push)
    return Published(out, None if push is None else upload(out, push, private))


def publish(run: Run, out: Path, ablation: Path | None = None, name: str | None = None) -> None:
    """Write what `MultiSense.save_pretrained` writes into the new folder `out`, with a card that tells how the run was
    trained and, of the folder `ablation` that `multisense ablate` wrote, its table and picture. The card calls the model
    `name`, by default the folder's.

    Raises ValueError where `out` is not empty, or the ablation is of other weights than the run's.
    """
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"{out}: is not empty, and a card that someone wrote on would be lost; give a new folder")
    results = NO_RESULTS if ablation is None else results_section(read_ablation(ablation, run.model))
    said = {"name": name or out.name, "results": results, "training": training_section(run)}
    run.model.save_pretrained(out, model_card_kwargs=said)
    if ablation is not None:
        shutil.copyfile(ablation / PICTURE, out / PICTURE)


def read_ablation(folder: Path, model: MultiSense) -> Tree:
    """The tree of `ablation.json` in a folder, beside which its picture lies. Raises ValueError where either is missing
    or they are of other weights than the model's: numbers of another model must not stand in its card."""
    fix = f"expected the folder that `multisense ablate RUN -o {folder}` writes"
    for file in (folder / "ablation.json", folder / PICTURE):
        if not file.is_file():
            raise ValueError(f"{file}: not there; {fix}")
    tree = json.loads((folder / "ablation.json").read_text())
    refuse_other(tree, folder, fix, weights_fingerprint(model))
    return tree


def upload(folder: Path, name: str, private: bool = False) -> str:
    """Put a folder into the repository OWNER/NAME of the Hub, which is made where it is not there; returns the address of
    the commit. Raises ValueError where the Hub cannot be reached or does not let one in, and as `make_repository` does."""
    api = HfApi()
    try:
        name = make_repository(api, name, private or None)
        return str(api.upload_folder(repo_id=name, folder_path=folder, commit_message="multisense publish"))
    except (HTTPError, LocalTokenNotFoundError, OfflineModeIsEnabled) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise ValueError(
            f"{name}: not on the Hub ({reason}). {folder} is whole: log in (hf auth login) or find a network, then "
            f"`hf upload {name} {folder}`"
        ) from error
