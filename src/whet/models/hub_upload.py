"""Files of this machine become one commit of a model repository on the hub; no message ever holds the token."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from whet.errors import HubError, RecipeError
from whet.hub import errors as hub_errors
from whet.hub.settings import HubSettings, request_for, token


def upload(
    repo: str,
    files: Mapping[str, Path],
    *,
    is_private: bool,
    revision: str | None,
    message: str,
    settings: HubSettings | None = None,
) -> str:
    """Create `repo` where it is missing and commit `files` (name in the repository -> file); returns its address.

    An existing repository keeps its visibility. HubError says which of token, rights, name or hub is at fault.
    """
    settings = settings or HubSettings()
    check_name(repo)
    if settings.is_offline:
        raise HubError("HF_HUB_OFFLINE is set, so nothing is uploaded", mend="unset it")
    request = request_for(repo, revision, settings)
    if request.token_source is None:
        raise HubError("no token, and uploading needs one", mend="set HF_TOKEN, or log in once with `hf auth login`")
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi(endpoint=settings.endpoint, token=token())
    with _explained(request):
        api.create_repo(repo, private=is_private, exist_ok=True)
        if revision is not None:
            api.create_branch(repo, branch=revision, exist_ok=True)
        operations = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=path) for name, path in files.items()]
        api.create_commit(repo, operations, commit_message=message, revision=revision)
    return f"{settings.endpoint}/{repo}" + (f"/tree/{revision}" if revision else "")


def check_name(repo: str) -> None:
    """RecipeError unless `repo` is OWNER/NAME as the hub allows it."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise RecipeError(f"{repo!r} is not a name that the hub allows", mend="write OWNER/NAME") from error
    if repo.count("/") != 1:
        raise RecipeError(f"{repo!r} does not say whose repository it is", mend="write OWNER/NAME")


@contextmanager
def _explained(request: hub_errors.Request) -> Iterator[None]:
    try:
        yield
    except hub_errors.failures() as error:
        response = getattr(error, "response", None)
        raise (_unanswered(error, request) if response is None else _refused(response, request)) from None


def _unanswered(error: Exception, request: hub_errors.Request) -> HubError:
    if isinstance(error, ValueError) and "README.md" in str(error):
        return HubError(
            f"{request.host} does not take the front matter of README.md; nothing was uploaded",
            mend="correct the lines between the two --- at its beginning",
        )
    return HubError(
        f"{request.host} gave no usable answer while {request.repo_id} was uploaded ({type(error).__name__})",
        mend="check network, proxy and HF_ENDPOINT, and run the same command again: what has arrived is not sent twice",
    )


def _refused(response: Any, request: hub_errors.Request) -> HubError:
    """The HubError for an HTTP answer of 400 and above."""
    status = response.status_code
    if status == 401:
        return HubError(
            f"the token from {request.token_source} is not valid (HTTP 401)",
            mend="make a new token with write access in the hub's settings",
        )
    if status == 403:
        return HubError(
            f"the token from {request.token_source} may not write to {request.repo_id} (HTTP 403)",
            mend="use a token with write access, or a repository of your own",
        )
    if status == 404:
        return HubError(
            f"{request.host} has no owner or repository {request.repo_id} that this token can see (HTTP 404)",
            mend="check OWNER/NAME for a typing error",
        )
    if status == 429:
        return HubError(
            f"{request.host} takes no more uploads for now (HTTP 429, too many requests)",
            mend="try again in some minutes",
        )
    if status >= 500:
        return HubError(f"{request.host} is out of order (HTTP {status})", mend="try again in some minutes")
    return HubError(
        f"{request.host} refused the upload of {request.repo_id} (HTTP {status})",
        mend=f"see https://{request.host}/{request.repo_id}",
    )
