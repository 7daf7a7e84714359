"""What a server of files can do wrong, as answers to one request each; hub_server asks these first."""

import contextlib
import gzip
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

Act = Callable[[Any, Path | None], None]


def status(code: int, **headers: str) -> Act:
    """Refuse."""

    def act(handler: Any, _: Path | None) -> None:
        handler.send(code, b"no", {name.replace("_", "-"): value for name, value in headers.items()}, body=True)

    return act


def cut_short(handler: Any, file: Path | None) -> None:
    """Announce what was asked for, send half of it, and hang up."""
    start = _start(handler)
    content = file.read_bytes()[start:]
    _head(handler, 206 if start else 200, len(content), start, file)
    with contextlib.suppress(OSError):
        handler.wfile.write(content[: len(content) // 2])
    handler.close_connection = True


def announced_short(handler: Any, file: Path | None) -> None:
    """Send half as if it were all."""
    content = file.read_bytes()[: file.stat().st_size // 2]
    handler.send(200, content, {}, body=True)


def too_long(handler: Any, file: Path | None) -> None:
    """Send more than there is."""
    handler.send(200, file.read_bytes() + b"more", {}, body=True)


def wrong_bytes(handler: Any, file: Path | None) -> None:
    """Send other bytes of the right number."""
    start = _start(handler)
    content = bytes(byte ^ 1 for byte in file.read_bytes()[start:])
    _head(handler, 206 if start else 200, len(content), start, file)
    with contextlib.suppress(OSError):
        handler.wfile.write(content)


def web_page(handler: Any, _: Path | None) -> None:
    """Send what a captive portal sends."""
    handler.send(200, b"<html>please log in</html>", {"Content-Type": "text/html"}, body=True)


def wrong_range(handler: Any, file: Path | None) -> None:
    """Answer with the beginning where a later part was asked for."""
    content = file.read_bytes()
    headers = {"Content-Range": f"bytes 0-{len(content) - 1}/{len(content)}"}
    handler.send(206, content, headers, body=True)


def packed(handler: Any, file: Path | None) -> None:
    """Compress it, though nobody asked for that; a part is then one of the compressed bytes."""
    start, size = _start(handler), file.stat().st_size
    headers = {"Content-Encoding": "gzip"} | ({"Content-Range": f"bytes {start}-{size - 1}/{size}"} if start else {})
    handler.send(206 if start else 200, gzip.compress(file.read_bytes(), 1)[start:], headers, body=True)


def hang_up(handler: Any, _: Path | None) -> None:
    """Say nothing."""
    handler.close_connection = True


def drip(handler: Any, file: Path | None) -> None:
    """Send everything, a little at a time."""
    start = _start(handler)
    content = file.read_bytes()[start:]
    _head(handler, 206 if start else 200, len(content), start, file)
    step = max(1, len(content) // 20)
    with contextlib.suppress(OSError):
        for place in range(0, len(content), step):
            handler.wfile.write(content[place : place + step])
            handler.wfile.flush()
            time.sleep(0.02)


def redirect(url: str) -> Act:
    """Send them elsewhere, path and all."""

    def act(handler: Any, _: Path | None) -> None:
        handler.send(302, b"", {"Location": url + handler.path}, body=True)

    return act


def redirect_to(location: str) -> Act:
    """Send them to exactly this address."""

    def act(handler: Any, _: Path | None) -> None:
        handler.send(302, b"", {"Location": location}, body=True)

    return act


def _start(handler: Any) -> int:
    return int(handler.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])


def _head(handler: Any, code: int, length: int, start: int, file: Path) -> None:
    size = file.stat().st_size
    handler.send_response(code)
    handler.send_header("Content-Length", str(length))
    if code == 206:
        handler.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
    handler.end_headers()


class Stall:
    """Send half of the file, then nothing until it is let go; `reached` is set when the half is out."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.go = threading.Event()

    def __call__(self, handler: Any, file: Path | None) -> None:
        start = _start(handler)
        content = file.read_bytes()[start:]
        _head(handler, 206 if start else 200, len(content), start, file)
        with contextlib.suppress(OSError):
            handler.wfile.write(content[: len(content) // 2])
            handler.wfile.flush()
        self.reached.set()
        self.go.wait(60)
        handler.close_connection = True
