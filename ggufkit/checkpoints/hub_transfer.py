"""One file of a repository to this disk: resumed where it stopped, and under its name only when its hash is right."""

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

from ggufkit.checkpoints.hub import LONGEST_WAIT, Listing, RemoteFile, patiently, told_apart
from ggufkit.checkpoints.hub_http import TryAgainError, opened, place
from ggufkit.errors import HubError, OutputError
from ggufkit.files import NO_LOCKS

Wait = Callable[[float, str], None]

_FAILURES = 5  # in a row, with next to nothing received between them
_FIRST_WAIT = 0.25  # seconds; each time twice as long
_LITTLE = 1 << 20
_SLOWEST = 4096  # bytes in a minute; whoever sends less keeps us waiting for ever
_PIECE = 1 << 20
_LARGEST_BY_HTTP = 50 * 10**9  # as huggingface_hub has it (MAX_HTTP_DOWNLOAD_SIZE)
_WRONG = "the hash of what was sent for {} is not the one that the hub announces"
_WORD = re.compile(r"[0-9A-Za-z_-]{1,128}")


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
    if not file.size and found.location != url and not (sha256 and size):
        size = max(size, _size_sent(listing, file))  # it may be the length of the redirect, which is not the file's
    name = etag if _WORD.fullmatch(etag) else hashlib.sha256(f"{listing.commit}/{file.path}".encode()).hexdigest()
    return replace(file, size=size, sha256=sha256), sha256 or name


def _size_sent(listing: Listing, file: RemoteFile) -> int:
    """Ask whoever sends the file how many bytes it has, and take none of them."""

    def ask() -> int:
        from huggingface_hub import errors

        try:
            with opened(listing, file, 0) as response:
                said = response.headers.get("Content-Length", "")
                return int(said) if said.isascii() and said.isdigit() else 0
        except errors.HfHubHTTPError:
            raise
        except TryAgainError as error:
            raise HubError(
                f"{listing.repository}: {file.path} cannot be had: {error}", hint="try again later"
            ) from None

    size = patiently(listing.repository, ask)
    if not size:
        raise HubError(f"{listing.repository}: the server does not say how many bytes {file.path} has")
    return size


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
            except OSError as error:
                if error.errno not in NO_LOCKS:  # the hash of what two write at once will tell
                    raise
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
        except TryAgainError as error:
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
            with opened(listing, file, start) as response:
                position = place(response, file, start, output, report)
                _copy(response, listing, file, output, position, report)
        except errors.HfHubHTTPError:
            raise
        except errors.HTTPError as error:
            raise TryAgainError(f"the connection broke ({type(error).__name__})") from None


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
                raise TryAgainError(f"only {received} bytes came in a minute")
            since, received = now, 0
    if position < file.size:
        raise TryAgainError(f"it ended after {position:,} of {file.size:,} bytes")
