"""What can go wrong between here and the hub, in one line each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from huggingface_hub.errors import HfHubHTTPError

_TOO_MANY_REQUESTS = 429
_SERVER_ERROR = 500


class HubError(Exception):
    """A name that cannot be brought here. ``problems`` lists every reason."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


class HubUnreachable(HubError):
    """Nobody answers, or only to say that the hub is unwell: what is here already may do."""


@contextmanager
def told(repo: str, revision: str, endpoint: str) -> Iterator[None]:
    """Turn what huggingface_hub raises about ``repo`` into HubError or HubUnreachable."""
    import httpx2
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        yield
    except LocalEntryNotFoundError as error:  # wraps whatever it was
        raise _failed(error.__cause__ or error, repo, revision, endpoint) from error
    except (HfHubHTTPError, httpx2.HTTPError, httpx2.InvalidURL) as error:
        raise _failed(error, repo, revision, endpoint) from error
    except OSError as error:
        where = f": {error.filename}" if error.filename else ""
        line = (error.strerror or str(error)).partition("\n")[0]
        raise HubError([f"{repo}: {line}{where}"]) from error


def _failed(error: BaseException, repo: str, revision: str, endpoint: str) -> HubError:
    from huggingface_hub.errors import FileMetadataError, HfHubHTTPError

    if isinstance(error, HfHubHTTPError):
        return _refused(error, repo, revision, endpoint)
    if isinstance(error, FileMetadataError):
        return HubError([f"{endpoint} does not answer as a hub does: {error}"])
    reason = str(error).partition("\n")[0] or type(error).__name__
    return HubUnreachable([f"{endpoint} cannot be reached: {reason}"])


def _refused(error: HfHubHTTPError, repo: str, revision: str, endpoint: str) -> HubError:
    from huggingface_hub import errors

    status = error.response.status_code
    match error:
        case errors.GatedRepoError():
            line = (
                f"{repo} is gated: ask for access at {endpoint}/{repo}, and set HF_TOKEN to a "
                f"token of the account that was given it"
            )
        case errors.RevisionNotFoundError():
            line = f"{repo} has no revision {revision!r} at {endpoint}"
        case errors.RemoteEntryNotFoundError():
            line = f"{repo}: a file of its list is not there: {error.response.url}"
        case errors.DisabledRepoError():
            line = f"{repo} was disabled at {endpoint}"
        case _ if isinstance(error, errors.RepositoryNotFoundError) or status in {401, 404}:
            line = (
                f"{repo} does not exist, neither here nor at {endpoint}; if it is private there, "
                f"set HF_TOKEN to a token that may read it"
            )
        case _:
            line = f"{repo}: {endpoint} answered {status} {error.response.reason_phrase}"
    is_unwell = status >= _SERVER_ERROR or status == _TOO_MANY_REQUESTS
    return HubUnreachable([line]) if is_unwell else HubError([line])
