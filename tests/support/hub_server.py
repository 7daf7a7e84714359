"""A hub on this machine: its API, small files by itself, large ones by redirect to another host, as on the real one.

Everything that it sends in bodies is counted, and every Authorization header it sees is remembered, by host.
"""

import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import hub_uploads

COMMIT = "0123456789abcdef0123456789abcdef01234567"
_LARGE = 1 << 20
_MOST = 64 << 20  # a client that takes this much in one piece took too much


@dataclass
class Fault:
    """What goes wrong with requests whose line matches, the first `times` of them: `act` answers in place of the hub.

    `file` is the path, under the hub's root, of the file that was asked for (None for a request to the API).
    """

    request: str
    act: Callable[["_Handler", Path | None], None]
    times: int = 1 << 30


class Hub:
    """Two HTTP servers: `url` for the API and small files, and a content host for the others."""

    def __init__(self, root: Path, *, gated: set[str] = frozenset(), ranges: bool = True) -> None:
        self.root, self.gated, self.ranges = root, gated, ranges
        self.sent = 0
        self.tokens: dict[str, set[str | None]] = {"hub": set(), "content": set()}
        self.requests: list[str] = []
        self.faults: list[Fault] = []
        self.created: list[dict[str, object]] = []  # repositories that clients made, as they asked for them
        self.received: list[str] = []  # SHA-256 of large files that were uploaded
        self.commits: list[str] = []
        self.content = _server(self, _Content)
        self.api = _server(self, _Api)
        self.url = f"http://127.0.0.1:{self.api.server_port}"

    def close(self) -> None:
        for server in (self.api, self.content):
            server.shutdown()
            server.server_close()


@contextlib.contextmanager
def serving(root: Path, **options: object) -> Iterator[Hub]:
    """Serve the repositories `root/owner/name/`; files of a megabyte or more come from the content host."""
    hub = Hub(root, **options)
    try:
        yield hub
    finally:
        hub.close()


def _server(hub: Hub, handler: type["_Handler"]) -> ThreadingHTTPServer:
    server = ThreadingHTTPServer(("127.0.0.1", 0), type(handler.__name__, (handler,), {"hub": hub}))
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    return server


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: Hub
    host = ""

    def do_GET(self) -> None:
        self.answer(body=True)

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_POST(self) -> None:
        self.take()

    def do_PUT(self) -> None:
        self.take()

    def take(self) -> None:
        """Take an upload, or fail as a test wants it."""
        self.hub.tokens[self.host].add(self.headers.get("Authorization"))
        self.hub.requests.append(f"{self.command} {self.path}")
        for fault in self.hub.faults:
            if fault.times > 0 and re.search(fault.request, f"{self.host} {self.command} {self.path}"):
                fault.times -= 1
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                fault.act(self, None)
                return
        hub_uploads.answer(self)

    def log_message(self, *_: object) -> None:
        """Stay quiet."""

    def answer(self, *, body: bool) -> None:
        self.hub.tokens[self.host].add(self.headers.get("Authorization"))
        self.hub.requests.append(f"{self.command} {self.path}")
        for fault in self.hub.faults:
            if fault.times > 0 and re.search(fault.request, f"{self.host} {self.command} {self.path}"):
                fault.times -= 1
                fault.act(self, self.file())
                return
        self.route(body=body)

    def file(self) -> Path | None:
        """The file that is asked for, on either host."""
        path, _, _ = self.path.partition("?")
        found = re.fullmatch(r"/([^/]+/[^/]+)/(?:resolve/[^/]+/)?(.+)", path)
        return self.hub.root / found[1] / found[2] if found and not path.startswith("/api/") else None

    def route(self, *, body: bool) -> None:
        raise NotImplementedError

    def send(self, status: int, content: bytes, headers: dict[str, str], *, body: bool) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self.wfile.write(content)
            self.hub.sent += len(content)

    def send_file(self, path: Path, headers: dict[str, str], *, body: bool) -> None:
        size = path.stat().st_size
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not asked or not self.hub.ranges:
            with path.open("rb") as file:
                self.send(200, file.read(_MOST), headers, body=body)
            return
        start, end = int(asked[1]), min(int(asked[2] or size - 1), size - 1)
        with path.open("rb") as file:
            file.seek(start)
            content = file.read(end - start + 1)
        self.send(206, content, {**headers, "Content-Range": f"bytes {start}-{end}/{size}"}, body=body)


class _Api(_Handler):
    host = "hub"

    def route(self, *, body: bool) -> None:
        path, _, _ = self.path.partition("?")
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            if self.allows(found[1], found[2] or "main", body=body):
                self.send(200, json.dumps(self.listing(found[1])).encode(), {}, body=body)
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            if self.allows(found[1], found[2], body=body):
                self.resolve(found[1], found[3], body=body)
        else:
            self.send(404, b"", {}, body=body)

    def allows(self, repository: str, revision: str, *, body: bool) -> bool:
        """Refuse as the hub does: what is missing and what is private look alike."""
        if not (self.hub.root / repository).is_dir():
            self.send(401, b"", {"X-Error-Code": "RepoNotFound"}, body=body)
        elif repository in self.hub.gated and not self.headers.get("Authorization"):
            self.send(401, b"", {"X-Error-Code": "GatedRepo"}, body=body)
        elif revision not in {"main", COMMIT}:
            self.send(404, b"", {"X-Error-Code": "RevisionNotFound"}, body=body)
        else:
            return True
        return False

    def listing(self, repository: str) -> dict[str, object]:
        folder = self.hub.root / repository
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        return {"id": repository, "modelId": repository, "sha": COMMIT, "siblings": [sibling(folder, f) for f in files]}

    def resolve(self, repository: str, name: str, *, body: bool) -> None:
        path = self.hub.root / repository / name
        if not path.is_file():
            self.send(404, b"", {"X-Error-Code": "EntryNotFound"}, body=body)
            return
        size = path.stat().st_size
        etag = content_name(path)
        headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{etag}"'}
        if size < _LARGE:
            self.send_file(path, headers, body=body)
            return
        location = f"http://localhost:{self.hub.content.server_port}/{repository}/{name}"
        linked = {"X-Linked-ETag": f'"{etag}"', "X-Linked-Size": str(size), "Location": location}
        self.send(302, b"", {**headers, **linked}, body=body)


def content_name(path: Path) -> str:
    """Name a content as the hub does: a large one by its SHA-256, a small one as git does."""
    size = path.stat().st_size
    digest = hashlib.sha256() if size >= _LARGE else hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def sibling(folder: Path, path: Path) -> dict[str, object]:
    """Describe a file as the API does with `?blobs=true`."""
    size = path.stat().st_size
    found: dict[str, object] = {"rfilename": str(path.relative_to(folder)), "size": size}
    if size >= _LARGE:
        return found | {"blobId": "0" * 40, "lfs": {"size": size, "sha256": content_name(path), "pointerSize": 134}}
    return found | {"blobId": content_name(path)}


class _Content(_Handler):
    host = "content"

    def route(self, *, body: bool) -> None:
        path, _, _ = self.path.partition("?")
        self.send_file(self.hub.root / path.lstrip("/"), {}, body=body)
