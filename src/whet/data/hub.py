"""Rows of a dataset on the hub, through the `datasets` library, pinned to one commit.

Only data files are read: loading scripts do not exist in datasets 4, and remote code is never asked for.
"""

from __future__ import annotations

from whet.data.files import RawRow
from whet.errors import HubError, RecipeError

_ACCESS_MEND = "accept its conditions on the dataset's page and log in (hf auth login, or set HF_TOKEN)"


def read_hub_rows(
    dataset_id: str, *, split: str, config: str | None, revision: str | None
) -> tuple[list[RawRow], str | None]:
    """All rows of one split, and the commit they come from (None when offline: then the cached copy is read).

    Raises HubError where the dataset cannot be fetched, RecipeError where split or configuration do not exist.
    """
    try:
        import datasets
        import datasets.exceptions
    except ImportError as error:
        raise RecipeError(
            "datasets on the hub need the datasets library, which is not installed",
            where=dataset_id,
            mend="pip install 'whet[data]'",
        ) from error
    commit = _resolve_commit(dataset_id, revision)
    try:
        table = datasets.load_dataset(dataset_id, name=config, split=split, revision=commit or revision)
    except datasets.exceptions.DatasetNotFoundError as error:
        raise HubError("dataset not found, or not open to you", where=dataset_id, mend=_ACCESS_MEND) from error
    except datasets.exceptions.DatasetGenerationError as error:
        raise HubError(f"its files cannot be read ({error})", where=dataset_id, mend="pin another revision") from error
    except ValueError as error:
        raise RecipeError(str(error), where=dataset_id, mend="correct `split` or `config` of this source") from error
    except OSError as error:
        raise HubError(
            f"cannot be fetched ({error})", where=dataset_id, mend="check the network, then try again"
        ) from error
    rows = [
        RawRow(origin=f"{dataset_id}[{split}]:row {number}", value=dict(row)) for number, row in enumerate(table, 1)
    ]
    return rows, commit


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

    # the transport errors of the HTTP library in use: httpx2 under huggingface_hub 2, httpx under 1.x
    transport_error: type[Exception] = HfHubHTTPError.__mro__[1]
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
    except (transport_error, ConnectionError, TimeoutError) as error:
        mend = "check the network; with HF_HUB_OFFLINE=1 a copy fetched earlier is used"
        raise HubError(f"the hub cannot be reached ({type(error).__name__})", where=dataset_id, mend=mend) from error
