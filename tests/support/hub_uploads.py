"""The part of a hub that takes uploads: repositories made, large files by LFS, commits that show them."""

import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any

LARGE = 1 << 20  # as the hub: what is smaller and is text comes with the commit
_STORE = ".lfs"


def answer(handler: Any) -> bool:
    """Answer a POST or PUT of the upload protocol; False for anything else."""
    hub, path = handler.hub, handler.path.partition("?")[0]
    body = handler.rfile.read(int(handler.headers.get("Content-Length", 0)))
    if not handler.headers.get("Authorization") and not path.startswith("/lfs/"):
        handler.send(401, b"{}", {}, body=True)
    elif path == "/api/validate-yaml":
        handler.send(200, b'{"errors": [], "warnings": []}', {}, body=True)
    elif path == "/api/repos/create":
        asked = json.loads(body)
        name = f"{asked.get('organization') or 'me'}/{asked['name']}"
        new = not (hub.root / name).exists()
        (hub.root / name).mkdir(parents=True, exist_ok=True)
        hub.created.append(asked)
        handler.send(200 if new else 409, json.dumps({"url": f"{hub.url}/{name}"}).encode(), {}, body=True)
    elif re.fullmatch(r"/api/models/[^/]+/[^/]+/preupload/.+", path):
        files = [
            {
                "path": f["path"],
                "uploadMode": "lfs" if f["path"].endswith(".gguf") else "regular",
                "shouldIgnore": False,
            }
            for f in json.loads(body)["files"]
        ]
        handler.send(200, json.dumps({"files": files}).encode(), {}, body=True)
    elif path.endswith(".git/info/lfs/objects/batch"):
        objects = [_action(hub, each) for each in json.loads(body)["objects"]]
        handler.send(200, json.dumps({"transfer": "basic", "objects": objects}).encode(), {}, body=True)
    elif found := re.fullmatch(r"/lfs/([0-9a-f]{64})", path):
        store = hub.root / _STORE
        store.mkdir(exist_ok=True)
        if hashlib.sha256(body).hexdigest() != found[1]:
            handler.send(400, b"", {}, body=True)
            return True
        (store / found[1]).write_bytes(body)
        hub.received.append(found[1])
        handler.send(200, b"", {}, body=True)
    elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/(.+)", path):
        _commit(hub, hub.root / found[1], body)
        done = {"commitUrl": f"{hub.url}/{found[1]}/commit/1", "commitOid": "1" * 40, "success": True}
        handler.send(200, json.dumps(done).encode(), {}, body=True)
    else:
        handler.send(404, b"{}", {}, body=True)
    return True


def _action(hub: Any, asked: dict[str, Any]) -> dict[str, Any]:
    if (hub.root / _STORE / asked["oid"]).exists():
        return asked
    return asked | {"actions": {"upload": {"href": f"{hub.url}/lfs/{asked['oid']}"}}}


def _commit(hub: Any, folder: Path, body: bytes) -> None:
    for line in body.splitlines():
        entry = json.loads(line)
        value = entry["value"]
        if entry["key"] == "lfsFile":
            (folder / value["path"]).write_bytes((hub.root / _STORE / value["oid"]).read_bytes())
        elif entry["key"] == "file":
            (folder / value["path"]).write_bytes(base64.b64decode(value["content"]))
        else:
            hub.commits.append(value["summary"])
