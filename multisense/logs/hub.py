"""Data sets of the Hugging Face Hub: `hf://datasets/OWNER/NAME[@REVISION]` as a folder on this machine.

`huggingface_hub` downloads what its cache lacks; with HF_HUB_OFFLINE=1, or without a network, what is in the cache is
used, and where it is not there the error says how to get it. HF_HOME and HF_HUB_CACHE say where the cache is.
"""

import re
from dataclasses import dataclass
from pathlib import Path

from multisense.logs.base import log_error

PREFIX = "hf://"
NAME = r"[A-Za-z0-9](?:[\w.-]{0,94}[A-Za-z0-9_])?"
URI = re.compile(rf"hf://datasets/({NAME}/{NAME})(?:@([A-Za-z0-9][\w./-]{{0,254}}))?/?")


@dataclass(frozen=True)
class HubDataset:
    """A data set by name: OWNER/NAME, and a branch, tag or commit."""

    name: str
    revision: str | None = None


def recognises(uri: str) -> bool:
    """Whether this names something on the Hub rather than a path."""
    return uri.startswith(PREFIX)


def parse(uri: str) -> HubDataset:
    """Raises LogError where `uri` is no `hf://datasets/OWNER/NAME[@REVISION]`."""
    match = URI.fullmatch(uri)
    if not match or ".." in uri or "--" in match[1]:  # the cache keeps OWNER/NAME as OWNER--NAME
        raise log_error(uri, "no data set's name", "hf://datasets/OWNER/NAME[@REVISION]", "Check the address.")
    return HubDataset(match[1], match[2])


def resolve(uri: str) -> Path:
    """The folder of a data set, downloaded unless it is in the cache already.

    Raises LogError when there is no such data set or revision, or it is neither in the cache nor to be had from here.
    """
    wanted = parse(uri)
    from huggingface_hub import errors, snapshot_download

    try:
        folder = snapshot_download(wanted.name, repo_type="dataset", revision=wanted.revision)
    except errors.GatedRepoError as error:
        fix = "Accept its conditions on its page, then log in: hf auth login."
        raise log_error(uri, "a gated data set", "one that you may read", fix) from error
    except errors.RepositoryNotFoundError as error:
        fix = "Check the name; for a private one log in first: hf auth login."
        raise log_error(uri, "no such data set on the Hub", "one that you may read", fix) from error
    except errors.RevisionNotFoundError as error:
        raise log_error(uri, f"no revision {wanted.revision!r}", "a branch, tag or commit", "Check it.") from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        raise log_error(uri, "it not in the cache, and no way to the Hub", "either of them", _how_to(wanted)) from error
    except (errors.HfHubHTTPError, errors.HFValidationError, OSError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise log_error(uri, f"a download that failed ({reason})", "the data set", "Try again later.") from error
    return Path(folder)


def _how_to(wanted: HubDataset) -> str:
    revision = f" --revision {wanted.revision}" if wanted.revision else ""
    command = f"hf download --repo-type dataset {wanted.name}{revision}"
    return (
        f"Unset HF_HUB_OFFLINE, or on a machine with a network run `{command}` and copy its cache (HF_HUB_CACHE) here."
    )
