"""Manifests: which blobs make a model, in the words of manifest/manifest.go and manifest/layer.go."""

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ggufkit.errors import InputError
from ggufkit.exports.ollama import go_json

CONFIG_TYPE = "application/vnd.docker.container.image.v1+json"
LAYER_TYPE = "application/vnd.ollama.image."
DIGEST = re.compile(r"sha256[:-]([0-9a-fA-F]{64})")
LARGEST = 4 << 20  # bytes, of a manifest or a config
_MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"


@dataclass(frozen=True, slots=True)
class Layer:
    """A blob and what it is for: the words and their order are those of manifest/layer.go.

    The optional `from` and `name` are left out, as `ollama create` does for a blob that it writes itself.
    """

    media_type: str
    digest: str  # "sha256:" and 64 hexadecimal digits
    size: int

    def json(self) -> dict[str, Any]:
        """Give the keys in their order."""
        return {"mediaType": self.media_type, "digest": self.digest, "size": self.size}


def manifest_bytes(config: Layer, layers: Iterable[Layer]) -> bytes:
    """Give the bytes of a manifest (manifest/manifest.go: WriteManifest), final newline included."""
    return go_json.encode(
        {
            "schemaVersion": 2,
            "mediaType": _MANIFEST_TYPE,
            "config": config.json(),
            "layers": [layer.json() for layer in layers],
        }
    )


def layer_of(media_type: str, content: bytes) -> Layer:
    """Name the blob of a small content."""
    return Layer(media_type, f"sha256:{hashlib.sha256(content).hexdigest()}", len(content))


def read_manifest(path: Path) -> dict[str, Any]:
    """Read a manifest. Raises InputError when it cannot be read, or is none."""
    try:
        content = json.loads(path.read_bytes()[:LARGEST])
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is no manifest: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} is no manifest: it holds no JSON object")
    return content


def layers_of(manifest: dict[str, Any]) -> list[Layer]:
    """Read the config and the layers of a manifest, in this order. Raises InputError when it names none."""
    values = manifest.get("layers") or []
    entries = [manifest.get("config"), *(values if isinstance(values, list) else [None])]
    layers = []
    for entry in entries:
        media_type, digest, size = (
            (entry.get(key) for key in ("mediaType", "digest", "size")) if isinstance(entry, dict) else (None,) * 3
        )
        if not isinstance(media_type, str) or not isinstance(size, int) or not DIGEST.fullmatch(str(digest)):
            raise InputError(f"the manifest names no blob in {entry!r:.80}")
        layers.append(Layer(media_type, str(digest), size))
    return layers
