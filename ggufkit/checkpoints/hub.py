"""Repositories on the Hugging Face hub: what they hold, and pieces of it. The only file that uses the network.

HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE and the cache folders mean what they mean to `huggingface_hub`, which does the
talking. It adds the token to requests to the endpoint; a redirect to another host, where large files lie, goes without.
"""

import contextlib
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from ggufkit.errors import HubError, UnsafeError

Answer = TypeVar("Answer")

_SECONDS = 30.0
_ATTEMPTS = 5
_FIRST_WAIT = 0.5  # seconds; each time twice as long
LONGEST_WAIT = 300.0  # the hub counts requests by windows of five minutes
# One slash is enough behind the scheme: a Path makes one of two.
_NAME = re.compile(
    r"(?P<scheme>hf:/{1,2}|hf\.co/|https:/{1,2}huggingface\.co/)?"
    r"(?P<id>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(?::(?P<quant>[\w./-]+))?(?:@(?P<revision>[\w./-]+))?"
)
_COMMIT = re.compile(r"[0-9A-Za-z]{1,64}")
BUSY = {408, 429, 500, 502, 503, 504}


@dataclass(frozen=True, slots=True)
class Repository:
    """A model repository, at a branch, tag or commit."""

    id: str
    revision: str | None = None

    @property
    def name(self) -> str:
        """The part behind the owner."""
        return self.id.rpartition("/")[2]

    def __str__(self) -> str:
        return f"{self.id}@{self.revision}" if self.revision else self.id


@dataclass(frozen=True, slots=True)
class ModelName:
    """What a person writes for a model on the hub: a repository, and perhaps which quantization (or file) of it.

    `explicit` says that it can mean nothing else: it began with `hf://`, `hf.co/` or the hub's address.
    """

    repository: Repository
    quantization: str | None = None
    explicit: bool = False

    def __str__(self) -> str:
        quantization = f":{self.quantization}" if self.quantization else ""
        revision = f"@{self.repository.revision}" if self.repository.revision else ""
        return f"{self.repository.id}{quantization}{revision}"


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of a repository: its path there, its bytes, and what they hash to.

    `sha256` is that of a large file's content; `git_id` git's name for a small one. The hub has one of the two.
    """

    path: str
    size: int
    sha256: str | None = None
    git_id: str | None = None


@dataclass(frozen=True, slots=True)
class Listing:
    """What a repository held at one commit."""

    repository: Repository
    commit: str
    files: tuple[RemoteFile, ...]

    def file(self, path: str) -> RemoteFile | None:
        """Return the file of that path."""
        return next((file for file in self.files if file.path == path), None)

    def in_root(self, *suffixes: str) -> tuple[RemoteFile, ...]:
        """Return the files outside of any folder that end so."""
        return tuple(file for file in self.files if "/" not in file.path and file.path.endswith(suffixes))


def repository(text: str) -> Repository | None:
    """Read `owner/repo`, `owner/repo@revision` or the same behind `hf://`; None for anything else."""
    name = model_name(text)
    return name.repository if name and name.quantization is None else None


def model_name(text: str) -> ModelName | None:
    """Read `owner/repo[:QUANT][@revision]`, also behind `hf://` or the hub's address; None for anything else."""
    found = _NAME.fullmatch(text)
    if not found or (found["id"].endswith(".gguf") and not found["scheme"]):
        return None
    return ModelName(Repository(found["id"], found["revision"]), found["quant"], bool(found["scheme"]))


def list_files(repository: Repository) -> Listing:
    """Ask which files a repository holds now, and at which commit.

    Raises:
        HubError: there is no such repository, it is gated, or the hub cannot be reached.
        UnsafeError: it names a file outside of itself.
    """
    if repository.revision and (".." in repository.revision or repository.revision.startswith("/")):  # as in git
        raise HubError(f"no revision of {repository.id} can have the name {repository.revision!r}")
    info = _model_info(repository)
    files = [_remote_file(sibling) for sibling in info.siblings or ()]
    for file in files:
        path = PurePosixPath(file.path)
        outside = path.is_absolute() or ".." in path.parts or re.match(r"[A-Za-z]:|.*\\", file.path)
        if outside or not file.path.isprintable() or not path.name:
            raise UnsafeError(f"{repository} names a file outside of itself: {file.path!r}")
    commit = info.sha or repository.revision or "main"
    if not _COMMIT.fullmatch(commit):
        raise UnsafeError(f"{repository} is at a commit that is none: {commit!r}")
    return Listing(repository, commit, tuple(files))


def _model_info(repository: Repository) -> Any:
    from huggingface_hub import HfApi

    api = HfApi(library_name="ggufkit")
    try:
        return patiently(
            repository,
            lambda: api.model_info(repository.id, revision=repository.revision, files_metadata=True, timeout=_SECONDS),
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        raise HubError(f"the answer about {repository} is not one that a hub gives", hint="check HF_ENDPOINT") from None


def patiently(repository: Repository, ask: Callable[[], Answer]) -> Answer:
    """Ask the hub, and again when it is busy, as long as it says or a little longer each time.

    Raises:
        HubError: as `told_apart` says it, when it does not go right in the end.
    """
    from huggingface_hub import errors

    attempt = 0
    while True:
        attempt += 1
        with told_apart(repository):
            try:
                return ask()
            except errors.HfHubHTTPError as error:
                response = getattr(error, "response", None)
                if attempt == _ATTEMPTS or response is None or response.status_code not in BUSY:
                    raise
                wait = seconds_to_wait(response.headers, attempt)
                if wait > LONGEST_WAIT:
                    raise
            except errors.HTTPError:  # the connection broke: once is no reason to give up
                if attempt > 1:
                    raise
                wait = seconds_to_wait({}, attempt)
        time.sleep(wait)


def seconds_to_wait(headers: Mapping[str, str], attempt: int) -> float:
    """How long to wait before asking again: what the server says, else longer from time to time."""
    said = headers.get("Retry-After", "").strip()
    if said.isascii() and said.isdigit():
        return float(said)
    if said:
        with contextlib.suppress(ValueError, TypeError):
            return max(0.0, parsedate_to_datetime(said).timestamp() - time.time())
    if window := re.search(r"\bt=(\d+)", headers.get("RateLimit", "")):
        return float(window[1])
    return min(30.0, _FIRST_WAIT * 2.0**attempt)


def _remote_file(sibling: Any) -> RemoteFile:
    large = sibling.lfs
    sha256 = getattr(large, "sha256", None) if large else None
    return RemoteFile(
        str(sibling.rfilename),
        sibling.size if isinstance(sibling.size, int) and sibling.size >= 0 else 0,
        sha256.lower() if isinstance(sha256, str) and re.fullmatch(r"[0-9a-fA-F]{64}", sha256) else None,
        sibling.blob_id if not large and re.fullmatch(r"[0-9a-f]{40}", sibling.blob_id or "") else None,
    )


def read_range(listing: Listing, file: RemoteFile, start: int, count: int) -> bytes:
    """Read `count` bytes of a file from byte `start`, or fewer where it ends before.

    Raises:
        HubError: the hub cannot be reached, or does not send the range that was asked for.
    """
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

    end = min(file.size, start + count)
    if start >= end:
        return b""
    url = hf_hub_url(listing.repository.id, file.path, revision=listing.commit)
    headers = {**build_hf_headers(library_name="ggufkit"), "Range": f"bytes={start}-{end - 1}"}

    def ask() -> bytes:
        with get_session().stream("GET", url, headers=headers, timeout=_SECONDS) as response:
            hf_raise_for_status(response)
            if response.status_code != 206 and start:
                raise HubError(f"{listing.repository}: the server sends no part of {file.path}, only all of it")
            content = b""
            for piece in response.iter_bytes(1 << 16):  # not more, even where the server sends the whole file
                content += piece
                if len(content) >= end - start:
                    break
            return content

    content = patiently(listing.repository, ask)
    if len(content) < end - start:
        raise HubError(f"{listing.repository}: {file.path} ended after {len(content):,} of {end - start:,} bytes")
    return content[: end - start]


def download(listing: Listing, file: RemoteFile) -> Path:
    """Fetch a whole file into Hugging Face's cache, unless it is there; return its path in the cache.

    Raises:
        HubError: as `list_files`.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    with told_apart(listing.repository):
        return Path(
            hf_hub_download(
                listing.repository.id,
                file.path,
                revision=listing.commit,
                library_name="ggufkit",
                etag_timeout=_SECONDS,
            )
        )


def cached_snapshot(repository: Repository) -> Path | None:
    """Return the folder in Hugging Face's cache that holds this revision, as far as it was downloaded; None if none."""
    from huggingface_hub import try_to_load_from_cache

    found: Any = try_to_load_from_cache(repository.id, "config.json", revision=repository.revision)
    return Path(found).parent if isinstance(found, str) else None


def is_offline() -> bool:
    """Tell whether the user forbids the network (HF_HUB_OFFLINE)."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


@contextlib.contextmanager
def told_apart(repository: Repository) -> Iterator[None]:
    """Turn what can go wrong with a hub into errors that say what to do next. No message repeats request headers.

    Raises:
        HubError: the hub cannot be reached, or refuses.
    """
    from huggingface_hub import constants, errors

    page = f"{constants.ENDPOINT}/{repository.id}"
    try:
        yield
    except errors.GatedRepoError:
        raise HubError(
            f"{repository} is gated, and this account has not been let in",
            hint=f"accept its conditions at {page}, then set HF_TOKEN or run `hf auth login`",
        ) from None
    except errors.RevisionNotFoundError:
        raise HubError(f"{repository.id} has no revision {repository.revision!r}", hint=f"see {page}") from None
    except errors.RepositoryNotFoundError:
        raise HubError(
            f"there is no repository {repository.id} at {constants.ENDPOINT}, or it is private",
            hint="check its spelling; for a private one set HF_TOKEN or run `hf auth login`",
        ) from None
    except errors.OfflineModeIsEnabled:
        raise HubError(
            f"{repository} is not in the cache, and HF_HUB_OFFLINE forbids to fetch it", hint="unset HF_HUB_OFFLINE"
        ) from None
    except errors.LocalEntryNotFoundError:
        raise HubError(f"cannot reach {constants.ENDPOINT}", hint="check the network, or HF_ENDPOINT") from None
    except errors.HFValidationError:
        raise HubError(f"no repository can have the name {repository.id!r}", hint="owner/repo is the form") from None
    except errors.HfHubHTTPError as error:
        status = getattr(getattr(error, "response", None), "status_code", "an error")
        raise HubError(f"{constants.ENDPOINT} answered {status} about {repository}", hint="try again later") from None
    except (errors.HTTPError, OSError) as error:  # the HTTP library's own, such as a connection refused
        raise HubError(
            f"cannot reach {constants.ENDPOINT}: {type(error).__name__}", hint="check the network, or HF_ENDPOINT"
        ) from None
