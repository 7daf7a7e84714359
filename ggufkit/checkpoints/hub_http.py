"""One request for a file of the hub, from a byte on: redirects, refusals and ranges, each looked at.

huggingface_hub's session, headers and addresses are used. Redirects are followed by hand, so that the token goes to the
endpoint and nowhere else, and no encrypted address leads to an unencrypted one.
"""

import contextlib
import re
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import urljoin, urlsplit

from ggufkit.checkpoints.hub import BUSY, Listing, RemoteFile, seconds_to_wait
from ggufkit.errors import HubError, UnsafeError

_REDIRECTS = 5
_LONGEST_ADDRESS = 1 << 15


class TryAgainError(Exception):
    """What went wrong may go right the next time, after so many seconds (None: as usual)."""

    def __init__(self, what: str, seconds: float | None = None, status: int | None = None) -> None:
        super().__init__(what)
        self.seconds = seconds
        self.status = status


@contextlib.contextmanager
def opened(listing: Listing, file: RemoteFile, start: int) -> Iterator[Any]:
    """Ask for the file from byte `start`, and follow redirects: the token stays with the endpoint.

    Raises:
        UnsafeError: it is redirected to an address that is not encrypted.
        HubError: it is redirected to no address, or for ever.
    """
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
        url = _redirected(url, location)
        if url is None:
            raise HubError(f"{listing.repository}: {file.path} is redirected to what is no address: {location[:80]!r}")
        if not is_allowed(url, home=home.geturl()):
            raise UnsafeError(f"{listing.repository}: {file.path} is redirected to an address that is not encrypted")
    raise HubError(f"{listing.repository}: {file.path} is redirected more than {_REDIRECTS} times")


def is_allowed(url: str, *, home: str) -> bool:
    """Whether a redirect may lead to this address: over HTTP, and not from an encrypted one to one that is not."""
    place = urlsplit(url)
    return place.scheme in {"https", urlsplit(home).scheme} and bool(place.netloc)


def _redirected(url: str, location: str) -> str | None:
    """The address that a redirect leads to; None where it is none, which the HTTP library takes for our mistake."""
    try:
        found = urljoin(url, location)
        place = urlsplit(found)
        sound = place.port is None or place.port > 0
    except ValueError:
        return None
    host = re.fullmatch(r"[0-9A-Za-z._:-]*", place.hostname or "")
    return found if sound and host and found.isprintable() and len(found) < _LONGEST_ADDRESS else None


def _check_status(response: Any, *, elsewhere: bool) -> None:
    from huggingface_hub.utils import hf_raise_for_status

    status = response.status_code
    if status in BUSY:
        said = "Retry-After" in response.headers or "RateLimit" in response.headers
        raise TryAgainError(f"the server answers {status}", seconds_to_wait(response.headers, 1) if said else None)
    if status in {401, 403} and elsewhere:  # an address that was signed for a time
        raise TryAgainError(f"the server of the files answers {status}")
    if status != 416:
        hf_raise_for_status(response)


def place(response: Any, file: RemoteFile, start: int, output: Any, report: Callable[[int], None]) -> int:
    """Tell at which byte of the file the answer begins; what lies there already goes.

    Raises:
        TryAgainError: the answer is not the part that was asked for.
    """
    coded = response.headers.get("Content-Encoding", "identity") != "identity"  # a part of that cannot be decoded
    if response.status_code == 206 and not coded:
        found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        if found and int(found[1]) == start and found[2] in {"*", str(file.size)}:
            return start
    elif response.status_code == 200:
        if start:  # it sends no ranges
            _start_over(output, start, report)
        return 0
    _start_over(output, start, report)
    raise TryAgainError(f"the server answers {response.status_code} and not with the range asked for")


def _start_over(output: Any, start: int, report: Callable[[int], None]) -> None:
    output.seek(0)
    output.truncate()
    report(-start)
