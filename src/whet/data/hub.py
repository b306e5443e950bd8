"""Rows of a dataset on the hub, through the `datasets` library, pinned to one commit, every data file hashed.

Only data files are read: loading scripts do not exist in datasets 4, and remote code is never asked for. A stream is
read over the network piece by piece and cannot be hashed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from whet.data.files import RawRow, hash_file
from whet.errors import HubError, RecipeError, StorageError
from whet.hub import errors, fetch, patience
from whet.hub.settings import HubSettings, request_for
from whet.redact import without_secrets

_FIRST_WITHOUT_SCRIPTS = 4
_NUM_STREAM_ATTEMPTS = 4
"""of the datasets library to go on with a stream, 5 s apart; its own 20 are minutes of silence"""


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
    _refuse_loading_scripts(datasets.__version__)
    settings = HubSettings()
    if settings.is_offline and stream:
        mend = "switch HF_HUB_OFFLINE off, or remove `stream` to read the copy fetched earlier"
        raise HubError("cannot be streamed without a network", where=dataset_id, mend=mend)
    request = request_for(dataset_id, revision, settings, kind="dataset")
    info = None if settings.is_offline else fetch.list_files(request, settings)
    commit = str(info.sha) if info else None
    with _errors_told(request, while_reading=False):
        builder = patience.within(
            settings.builder_seconds,
            lambda: datasets.load_dataset_builder(dataset_id, name=config, revision=commit or revision),
        )
        if stream:
            datasets.config.STREAMING_READ_MAX_RETRIES = _NUM_STREAM_ATTEMPTS
            datasets.config.STREAMING_OPEN_MAX_RETRIES = _NUM_STREAM_ATTEMPTS
            table = builder.as_streaming_dataset(split=split)
        else:
            if info and not Path(builder.cache_dir).is_dir():
                fetch.fetch_files(request, _data_files(builder, info), str(info.sha), settings)
            builder.download_and_prepare()
            table = builder.as_dataset(split=split)

    def read() -> Iterator[RawRow]:
        with _errors_told(request, while_reading=True):
            for number, row in enumerate(table, 1):
                yield RawRow(origin=f"{dataset_id}[{split}]:row {number}", value=dict(row))

    return HubSplit(
        commit=commit,
        version=commit or _hash_copy(table),
        num_rows=None if stream else len(table),
        read=read,
    )


def _refuse_loading_scripts(version: str) -> None:
    """RecipeError for a datasets library that could still run a dataset's own Python file."""
    if int(version.partition(".")[0]) < _FIRST_WITHOUT_SCRIPTS:
        raise RecipeError(
            f"datasets {version} can run code that comes with a dataset; whet reads through {_FIRST_WITHOUT_SCRIPTS}.0 "
            "or newer, which cannot",
            where="data",
            mend="pip install -U 'datasets>=4'",
        )


def _data_files(builder: Any, info: fetch.Info) -> list[Any]:
    """What the builder will read, as the hub lists it with its hashes."""
    urls = [url for of_split in (builder.config.data_files or {}).values() for url in of_split]
    listed = {file.rfilename: file for file in info.siblings or ()}
    # hf://datasets/OWNER/NAME@COMMIT/PATH
    names = {url.partition(f"@{info.sha}/")[2] for url in urls}
    return [listed[name] for name in sorted(names & listed.keys())]


def _hash_copy(table: Any) -> str:
    hashes = [hash_file(Path(file["filename"]), "the dataset's copy on disk") for file in table.cache_files]
    return hashlib.sha256(" ".join(hashes).encode()).hexdigest()


@contextmanager
def _errors_told(request: errors.Request, *, while_reading: bool) -> Iterator[None]:
    """Errors of the datasets library as whet's; while rows are read a ValueError is the files' fault."""
    from datasets.exceptions import DatasetGenerationError, DatasetNotFoundError

    dataset_id = request.repo_id
    file_faults = (DatasetGenerationError, ValueError) if while_reading else (DatasetGenerationError,)
    try:
        yield
    except (HubError, RecipeError, StorageError):
        raise
    except DatasetNotFoundError as error:
        mend = "accept its conditions on the dataset's page and log in (hf auth login, or set HF_TOKEN)"
        raise HubError("dataset not found, or not open to you", where=dataset_id, mend=mend) from error
    except file_faults as error:
        if isinstance(error.__cause__, OSError):
            raise errors.explain(error.__cause__, request) from error
        what = f"its files cannot be read ({without_secrets(str(error))})"
        raise HubError(what, where=dataset_id, mend="pin another revision") from error
    except ValueError as error:
        mend = "correct `split` or `config` of this source"
        raise RecipeError(without_secrets(str(error)), where=dataset_id, mend=mend) from error
    except errors.failures() as error:
        if HubSettings().is_offline:
            raise HubError(
                f"HF_HUB_OFFLINE is set, and {dataset_id} (revision {request.revision or 'main'}) is not in the cache",
                mend="run `whet prepare RECIPE` where the hub can be reached, with the same HF_HOME",
            ) from error
        raise errors.explain(error, request) from error
