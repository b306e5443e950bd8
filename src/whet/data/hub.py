"""Rows of a dataset on the hub, through the `datasets` library, pinned to one commit.

Only data files are read: loading scripts do not exist in datasets 4, and remote code is never asked for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whet.data.files import RawRow, hash_file
from whet.errors import HubError, RecipeError

_ACCESS_MEND = "accept its conditions on the dataset's page and log in (hf auth login, or set HF_TOKEN)"


@dataclass(frozen=True, slots=True, kw_only=True)
class HubSplit:
    """One split of a dataset at one commit."""

    commit: str | None
    """None when offline: then the copy fetched earlier is read"""
    version: str
    """the commit; offline a hash of the copy"""
    num_rows: int | None
    """None for a stream, which is not counted"""
    read: Callable[[], Iterator[RawRow]]
    """rows in order, from the first each time; a stream may raise HubError in the middle"""


def open_hub_split(
    dataset_id: str, *, split: str, config: str | None, revision: str | None, stream: bool = False
) -> HubSplit:
    """One split, fetched to disk, or with `stream` read over the network.

    Raises HubError where the dataset cannot be fetched, RecipeError where split or configuration do not exist.
    """
    try:
        import datasets
    except ImportError as error:
        raise RecipeError(
            "datasets on the hub need the datasets library, which is not installed",
            where=dataset_id,
            mend="pip install 'whet[data]'",
        ) from error
    commit = _resolve_commit(dataset_id, revision)
    if stream and commit is None:
        mend = "switch HF_HUB_OFFLINE off, or remove `stream` to read the copy fetched earlier"
        raise HubError("cannot be streamed without a network", where=dataset_id, mend=mend)
    with _errors_told(dataset_id, while_reading=False):
        table = datasets.load_dataset(
            dataset_id, name=config, split=split, revision=commit or revision, streaming=stream
        )

    def read() -> Iterator[RawRow]:
        with _errors_told(dataset_id, while_reading=True):
            for number, row in enumerate(table, 1):
                yield RawRow(origin=f"{dataset_id}[{split}]:row {number}", value=dict(row))

    return HubSplit(
        commit=commit,
        version=commit or _hash_copy(table),
        num_rows=None if stream else len(table),
        read=read,
    )


def _hash_copy(table: Any) -> str:
    hashes = [hash_file(Path(file["filename"]), "the dataset's copy on disk") for file in table.cache_files]
    return hashlib.sha256(" ".join(hashes).encode()).hexdigest()


@contextmanager
def _errors_told(dataset_id: str, *, while_reading: bool) -> Iterator[None]:
    """Errors of the datasets library as whet's; while rows are read a ValueError is the files' fault."""
    from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError

    file_faults = (DatasetGenerationError, ValueError) if while_reading else (DatasetGenerationError,)
    try:
        yield
    except DatasetNotFoundError as error:
        raise HubError("dataset not found, or not open to you", where=dataset_id, mend=_ACCESS_MEND) from error
    except file_faults as error:
        raise HubError(f"its files cannot be read ({error})", where=dataset_id, mend="pin another revision") from error
    except ValueError as error:
        raise RecipeError(str(error), where=dataset_id, mend="correct `split` or `config` of this source") from error
    except (OSError, _transport_error()) as error:
        what = f"cannot be fetched ({error or type(error).__name__})"
        raise HubError(what, where=dataset_id, mend="check the network, then try again") from error


def _transport_error() -> type[Exception]:
    """Base of the errors of the HTTP library in use: httpx2 under huggingface_hub 2, httpx under 1.x."""
    from huggingface_hub.errors import HfHubHTTPError

    return HfHubHTTPError.__mro__[1]


def _resolve_commit(dataset_id: str, revision: str | None) -> str | None:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        return HfApi().dataset_info(dataset_id, revision=revision, timeout=10).sha
    except OfflineModeIsEnabled:
        return None
    except GatedRepoError as error:
        raise HubError("dataset is gated", where=dataset_id, mend=_ACCESS_MEND) from error
    except RevisionNotFoundError as error:
        raise HubError(f"has no revision {revision}", where=dataset_id, mend="use an existing commit or tag") from error
    except RepositoryNotFoundError as error:
        mend = "check the name; a private dataset needs a token (hf auth login, or set HF_TOKEN)"
        raise HubError("dataset not found on the hub", where=dataset_id, mend=mend) from error
    except HFValidationError as error:
        raise RecipeError(
            "is neither a file nor a hub id", where=dataset_id, mend="write owner/name or a file"
        ) from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        mend = "check your token (hf auth login)" if status in (401, 403) else "try again later, or use a local file"
        raise HubError(f"the hub answered with status {status}", where=dataset_id, mend=mend) from error
    except (_transport_error(), ConnectionError, TimeoutError) as error:
        mend = "check the network; with HF_HUB_OFFLINE=1 a copy fetched earlier is used"
        raise HubError(f"the hub cannot be reached ({type(error).__name__})", where=dataset_id, mend=mend) from error
