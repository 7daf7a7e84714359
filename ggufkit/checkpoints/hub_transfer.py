"""One file of a repository to this disk: resumed where it stopped, and under its name only when its hash is right.

Plain HTTP with huggingface_hub's session, headers and addresses. Redirects are followed by hand, so that the token goes
to the endpoint and nowhere else, and no encrypted address leads to an unencrypted one.
"""

import contextlib
import fcntl
import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urljoin, urlsplit

from ggufkit.checkpoints.hub import BUSY, LONGEST_WAIT, Listing, RemoteFile, patiently, seconds_to_wait, told_apart
from ggufkit.errors import HubError, OutputError, UnsafeError

Wait = Callable[[float, str], None]

_FAILURES = 5  # in a row, with next to nothing received between them
_FIRST_WAIT = 0.25  # seconds; each time twice as long
_LITTLE = 1 << 20
_REDIRECTS = 5
_SLOWEST = 4096  # bytes in a minute; whoever sends less keeps us waiting for ever
_PIECE = 1 << 20
_LARGEST_BY_HTTP = 50 * 10**9  # as huggingface_hub has it (MAX_HTTP_DOWNLOAD_SIZE)
_WRONG = "the hash of what was sent for {} is not the one that the hub announces"
_WORD = re.compile(r"[0-9A-Za-z_-]{1,128}")


class _TryAgainError(Exception):
    """What went wrong may go right the next time, after so many seconds (None: as usual)."""

    def __init__(self, what: str, seconds: float | None = None, status: int | None = None) -> None:
        super().__init__(what)
        self.seconds = seconds
        self.status = status


def described(listing: Listing, file: RemoteFile) -> tuple[RemoteFile, str]:
    """Complete what is known of a file by asking for it; return it with the name of its content (its ETag).

    Raises:
        HubError: the file cannot be had, or the listing and the file contradict each other.
    """
    known = file.sha256 or file.git_id
    if known:
        return file, known
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    url = hf_hub_url(listing.repository.id, file.path, revision=listing.commit)
    found = patiently(listing.repository, lambda: get_hf_file_metadata(url, library_name="ggufkit"))
    etag = found.etag or ""
    if file.size and found.size is not None and found.size != file.size:
        raise HubError(f"{listing.repository}: {file.path} has {found.size:,} bytes, {file.size:,} in the listing")
    size = found.size if found.size is not None else file.size
    sha256 = etag.lower() if re.fullmatch(r"[0-9a-fA-F]{64}", etag) else None
    name = etag if _WORD.fullmatch(etag) else hashlib.sha256(f"{listing.commit}/{file.path}".encode()).hexdigest()
    return replace(file, size=size, sha256=sha256), sha256 or name


def is_sound(path: Path, file: RemoteFile, report: Callable[[int], None] = lambda _: None) -> bool:
    """Whether a file on this disk has the size and the hash that the hub gives for it. `report` is told of bytes read.

    Raises:
        OutputError: it cannot be read.
    """
    try:
        if path.stat().st_size != file.size:
            return False
        digest = hashlib.sha256() if file.sha256 or not file.git_id else hashlib.sha1(usedforsecurity=False)
        if not file.sha256 and file.git_id:
            digest.update(b"blob %d\0" % file.size)
        with path.open("rb") as opened:
            while piece := opened.read(_PIECE):
                digest.update(piece)
                report(len(piece))
    except OSError as error:
        raise OutputError(f"cannot read {path}: {error.strerror}") from error
    wanted = file.sha256 or file.git_id
    return wanted is None or digest.hexdigest() == wanted


def fetch(
    listing: Listing, file: RemoteFile, target: Path, content_name: str, *, report: Callable[[int], None], wait: Wait
) -> int:
    """Fetch a file to `target`, going on where an earlier run stopped; return how many bytes came over the network.

    What is not whole lies beside the target under a name that holds `content_name`, so a part is never gone on with
    when the content has changed. `report` is told of bytes as they come to be there, of negative ones when they have to
    go. `wait(seconds, why)` sleeps; it may raise to give up.

    Raises:
        HubError: the hub does not send the file, or sends another than it announced.
        OutputError: the disk is full or not writable.
    """
    received = 0
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if file.size > _LARGEST_BY_HTTP:
            report(file.size)
            return _by_library(listing, file, target, content_name)
        with _partial(target, content_name, wait) as partial:
            if target.is_file() and is_sound(target, file):  # another process was at it, and has finished
                partial.unlink()
                report(file.size)
                return 0
            for resumed in (partial.stat().st_size > 0, False):
                report(min(partial.stat().st_size, file.size))
                received += _receive(listing, file, partial, report, wait)
                if is_sound(partial, file):
                    break
                report(-file.size)
                os.truncate(partial, 0)
                if not resumed:
                    partial.unlink()
                    raise HubError(
                        f"{listing.repository}: {_WRONG.format(file.path)}",
                        hint="try again; if it stays so, the file is damaged on the server",
                    )
            _settle(partial, target)
    except OSError as error:
        raise OutputError(f"cannot write {target}: {error.strerror}") from error
    return received


def _by_library(listing: Listing, file: RemoteFile, target: Path, content_name: str) -> int:
    """Fetch a file that the hub sends by its newer protocol alone, with huggingface_hub; first beside the target."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.utils import disable_progress_bars

    disable_progress_bars()
    staging = part_path(target, content_name).with_suffix(".ggufkit-xet")
    try:
        with told_apart(listing.repository):
            found = hf_hub_download(
                listing.repository.id, file.path, revision=listing.commit, local_dir=staging, library_name="ggufkit"
            )
        if not is_sound(Path(found), file):
            raise HubError(f"{listing.repository}: {_WRONG.format(file.path)}", hint="try again")
        _settle(Path(found), target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return file.size


def part_path(target: Path, content_name: str) -> Path:
    """Where a content lies until it is whole."""
    start = target.name.encode()[:100].decode(errors="ignore")  # names of files end at 255 bytes
    return target.with_name(f".{start}.{content_name[:64]}.ggufkit-pull")


def part_size(target: Path, content_name: str) -> int:
    """How many bytes an earlier run has left of a content."""
    path = part_path(target, content_name)
    return path.stat().st_size if path.is_file() else 0


@contextlib.contextmanager
def _partial(target: Path, content_name: str, wait: Wait) -> Iterator[Path]:
    """Hold the one right to write the part of this content; wait for another process that has it."""
    path = part_path(target, content_name)
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                wait(0.5, f"Waiting for another process that fetches {target.name}")
                continue
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), path.stat()):
                    yield path
                    return
        finally:
            os.close(descriptor)


def _settle(partial: Path, target: Path) -> None:
    """Give the finished file its mode and name, in such an order that a power cut leaves it whole or absent."""
    mask = os.umask(0o077)
    os.umask(mask)
    partial.chmod(0o666 & ~mask)
    for path in (partial, partial.parent):
        if path == partial.parent:
            partial.replace(target)
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _receive(listing: Listing, file: RemoteFile, partial: Path, report: Callable[[int], None], wait: Wait) -> int:
    """Append to the part until it has all bytes; return how many came."""
    failures = received = 0
    while True:
        start = partial.stat().st_size
        if start > file.size:
            os.truncate(partial, 0)
            report(-file.size)
            continue
        if start == file.size:
            return received
        try:
            with partial.open("r+b") as output:
                output.seek(start)
                _stream(listing, file, output, start, report)
            received += file.size - start
        except _TryAgainError as error:
            grown = partial.stat().st_size - start
            received += max(0, grown)
            failures = 1 if grown >= _LITTLE else failures + 1
            if failures > _FAILURES or (error.seconds or 0) > LONGEST_WAIT:
                raise HubError(
                    f"{listing.repository}: {file.path} cannot be had: {error}",
                    hint="try again later; what has arrived is kept" if partial.stat().st_size else "try again later",
                ) from None
            seconds = error.seconds if error.seconds is not None else min(30.0, _FIRST_WAIT * 2.0**failures)
            wait(seconds, f"Waiting, because {error}")


def _stream(listing: Listing, file: RemoteFile, output: Any, start: int, report: Callable[[int], None]) -> None:
    from huggingface_hub import errors

    with told_apart(listing.repository):
        try:
            with _opened(listing, file, start) as response:
                position = _place(response, file, start, output, report)
                _copy(response, listing, file, output, position, report)
        except errors.HfHubHTTPError:
            raise
        except errors.HTTPError as error:
            raise _TryAgainError(f"the connection broke ({type(error).__name__})") from None


def _copy(
    response: Any, listing: Listing, file: RemoteFile, output: Any, position: int, report: Callable[[int], None]
) -> None:
    since, received = time.monotonic(), 0
    for piece in response.iter_bytes():
        if position + len(piece) > file.size:
            raise HubError(f"{listing.repository}: {file.path} is longer than the {file.size:,} bytes announced")
        try:
            output.write(piece)
        except OSError as error:
            raise OutputError(f"cannot write {output.name}: {error.strerror}") from error
        position += len(piece)
        received += len(piece)
        report(len(piece))
        if (now := time.monotonic()) - since > 60:
            if received < _SLOWEST:
                raise _TryAgainError(f"only {received} bytes came in a minute")
            since, received = now, 0
    if position < file.size:
        raise _TryAgainError(f"it ended after {position:,} of {file.size:,} bytes")


@contextlib.contextmanager
def _opened(listing: Listing, file: RemoteFile, start: int) -> Iterator[Any]:
    """Ask for the file from byte `start`, and follow redirects: the token stays with the endpoint."""
    from huggingface_hub import constants, hf_hub_url
    from huggingface_hub.utils import build_hf_headers, get_session

    url = hf_hub_url(listing.repository.id, file.path, revision=listing.commit)
    home = urlsplit(url)
    headers = {**build_hf_headers(library_name="ggufkit"), "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
    for _ in range(_REDIRECTS):
        place = urlsplit(url)
        at_home = (place.scheme, place.netloc) == (home.scheme, home.netloc)
        sent = headers if at_home else {k: v for k, v in headers.items() if k.lower() != "authorization"}
        with get_session().stream(
            "GET", url, headers=sent, timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT, follow_redirects=False
        ) as response:
            location = response.headers.get("Location") if response.status_code in {301, 302, 303, 307, 308} else None
            if location is None:
                _check_status(response, elsewhere=not at_home)
                yield response
                return
        url = urljoin(url, location)
        if not is_allowed(url, home=home.geturl()):
            raise UnsafeError(f"{listing.repository}: {file.path} is redirected to an address that is not encrypted")
    raise HubError(f"{listing.repository}: {file.path} is redirected more than {_REDIRECTS} times")


def is_allowed(url: str, *, home: str) -> bool:
    """Whether a redirect may lead to this address: over HTTP, and not from an encrypted one to one that is not."""
    place = urlsplit(url)
    return place.scheme in {"https", urlsplit(home).scheme} and bool(place.netloc)


def _check_status(response: Any, *, elsewhere: bool) -> None:
    from huggingface_hub.utils import hf_raise_for_status

    status = response.status_code
    if status in BUSY:
        said = "Retry-After" in response.headers or "RateLimit" in response.headers
        raise _TryAgainError(f"the server answers {status}", seconds_to_wait(response.headers, 1) if said else None)
    if status in {401, 403} and elsewhere:  # an address that was signed for a time
        raise _TryAgainError(f"the server of the files answers {status}")
    if status != 416:
        hf_raise_for_status(response)


def _place(response: Any, file: RemoteFile, start: int, output: Any, report: Callable[[int], None]) -> int:
    """Tell at which byte of the file the answer begins; what lies there already goes."""
    if response.status_code == 206:
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        if found and int(found[1]) == start and found[2] in {"*", str(file.size)}:
            return start
    elif response.status_code == 200:
        if start:  # it sends no ranges
            _start_over(output, start, report)
        return 0
    _start_over(output, start, report)
    raise _TryAgainError(f"the server answers {response.status_code} and not with the range asked for")


def _start_over(output: Any, start: int, report: Callable[[int], None]) -> None:
    output.seek(0)
    output.truncate()
    report(-start)
