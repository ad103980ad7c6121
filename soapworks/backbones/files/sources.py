"""Where a checkpoint's files are.

The only module that touches the network and the caches; all others are given local paths.
"""

import os
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from ssl import SSLError
from textwrap import shorten
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlparse
from urllib.request import Request, urlopen

from soapworks.backbones.files.names import (
    CONFIG_NAME,
    WEIGHTS_NAMES,
    choose_weights,
    has_weights_suffix,
    list_weights,
)
from soapworks.downloads import download
from soapworks.errors import CheckpointError


def find_file(path: Path) -> Path:
    """Return a local weights file, or raise CheckpointError naming what is near it."""
    if path.is_file():
        return path
    folder = path.parent
    there = f"there is no folder {folder}"
    if folder.is_dir():
        there = list_weights([p.name for p in folder.iterdir()], folder)
    raise CheckpointError(f"there is no checkpoint {path}: {there}")


def find_folder_files(folder: Path) -> tuple[Path, Path | None]:
    """Return the weights of a folder and its ``config.json``, None without one.

    Raises
    ------
    CheckpointError
        If the folder holds no weights or several that could be meant.
    """
    names = sorted(path.name for path in folder.iterdir() if path.is_file())
    weights, config = choose_weights(names, str(folder))
    return folder / weights, folder / config if config else None


def zoo_folder(name: str) -> Path:
    """Return the folder of a model that ships with the package (``zoo:NAME``)."""
    zoo = Path(str(files("soapworks.zoo")))
    names = sorted(p.parent.name for p in zoo.glob(f"*/{CONFIG_NAME}"))
    if name not in names:
        known = ", ".join(f"zoo:{n}" for n in names) or "none in this installation"
        raise CheckpointError(f"there is no zoo:{name}; the pocket zoo has: {known}")
    return zoo / name


def find_pretrained(config: dict[str, Any], *, name: str) -> Path:
    """Return the local copy of a timm model's pretrained weights, downloaded if need be.

    As in timm, the Hugging Face hub goes before a plain URL. A cached file needs no network.

    Parameters
    ----------
    config
        timm's pretrained configuration as a dictionary.
    name
        Model name with its tag, for messages.
    """
    if config.get("hf_hub_id"):
        chosen = config.get("hf_hub_filename")
        return find_on_hub(config["hf_hub_id"], [chosen] if chosen else WEIGHTS_NAMES, name=name)
    url = config.get("url")
    if isinstance(url, Sequence) and not isinstance(url, str):
        url = url[0]
    if not url or config.get("custom_load") or not has_weights_suffix(urlparse(url).path):
        what = "only in a format that is not read" if url else "no pretrained weights"
        raise CheckpointError(
            f"timm has {what} for {name!r}: name a tag that has them (timm.list_pretrained()), or "
            f"pass a weights file with --architecture {name.partition('.')[0]}"
        )
    return _find_by_url(url, name)


def find_on_hub(repository: str, names: Sequence[str], *, name: str) -> Path:
    """Return the first of several files of a Hugging Face repository, from the cache if there.

    Parameters
    ----------
    repository
        ``owner/name``, optionally ``@revision``.
    names
        File names, the preferred one first.
    name
        What the user asked for, for messages.
    """
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    repo_id, _, revision = repository.partition("@")
    for file_name in names:
        cached = try_to_load_from_cache(repo_id, file_name, revision=revision or None)
        if isinstance(cached, str):
            return Path(cached)
    if not constants.HF_HUB_OFFLINE and (silence := _no_answer(constants.ENDPOINT)):
        raise _unreachable(name, repository, constants.HF_HUB_CACHE, silence) from silence
    for file_name in names:
        try:
            return Path(hf_hub_download(repo_id, file_name, revision=revision or None))
        except LocalEntryNotFoundError as error:
            raise _unreachable(name, repository, constants.HF_HUB_CACHE, error) from error
        except EntryNotFoundError:
            continue
        except Exception as error:
            # The hub's client passes on whatever its transport raises, which differs by version.
            raise _unreachable(name, repository, constants.HF_HUB_CACHE, error) from error
    raise CheckpointError(f"the repository {repository} on the hub has no {' or '.join(names)}")


def _find_by_url(url: str, name: str) -> Path:
    import torch

    folder = Path(torch.hub.get_dir()) / "checkpoints"
    path = folder / Path(urlparse(url).path).name
    if path.is_file():
        return path
    try:
        folder.mkdir(parents=True, exist_ok=True)
        download(url, path)
    except (OSError, RuntimeError, ValueError) as error:
        raise _unreachable(name, url, os.fspath(folder), error) from error
    return path


def _no_answer(url: str) -> OSError | None:
    """Why a server cannot be reached at all, None if it answers in whatever way.

    The hub's client would try for half a minute and log each attempt.
    """
    try:
        with urlopen(Request(url, method="HEAD"), timeout=10):
            return None
    except HTTPError:
        return None
    except URLError as error:
        reason = error.reason if isinstance(error.reason, OSError) else error
    except OSError as error:
        reason = error
    # Certificates are the client's affair: it may know authorities that urllib does not.
    return None if isinstance(reason, SSLError) else reason


def _unreachable(name: str, origin: str, cache: str, error: Exception) -> CheckpointError:
    reason = shorten(str(error), 160, placeholder=" ...").rstrip(" .")
    return CheckpointError(
        f"the weights of {name!r} ({origin}) are not in the cache {cache} and could not be "
        f"downloaded ({type(error).__name__}: {reason}): try again with a network, or pass a "
        f"local file of the weights with --architecture {name.rpartition('/')[2]}"
    )
