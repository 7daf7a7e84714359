"""A second reading of Ollama's formats, sharing nothing with the package: what a store must hold, byte for byte.

Written from Ollama's source alone. Numbers are rounded by `decimal`, JSON is the standard library's and then escaped,
and GGUF headers are read by the `gguf` package.
"""

import hashlib
import json
from collections.abc import Sequence
from decimal import ROUND_HALF_EVEN, Decimal
from pathlib import Path
from typing import Any

import gguf
import numpy as np

NAMES_OF_FILE_TYPES = (
    "F16:1 Q4_0:2 Q4_1:3 MXFP4:4 Q8_0:7 Q5_0:8 Q5_1:9 Q2_K:10 Q3_K_S:11 Q3_K_M:12 Q3_K_L:13 Q4_K_S:14 Q4_K_M:15 "
    "Q5_K_S:16 Q5_K_M:17 Q6_K:18 Q2_K_S:21 BF16:32"
)
FILE_TYPES = {int(number): name for name, number in (pair.split(":") for pair in NAMES_OF_FILE_TYPES.split())}


def go(value: Any) -> bytes:
    """What Go's JSON encoder writes for text, whole numbers, and floats that have a short decimal form."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text.encode() + b"\n"


def human(count: int) -> str:
    for scale, places, letter in ((10**9, 1, "B"), (10**6, 2, "M")):
        if count >= scale:
            exact = Decimal(count / scale)
            if exact == exact.to_integral_value():
                return f"{int(exact)}{letter}"
            return f"{exact.quantize(Decimal(1).scaleb(-places), ROUND_HALF_EVEN)}{letter}"
    return f"{Decimal(count / 1000).quantize(Decimal(1), ROUND_HALF_EVEN)}K" if count >= 1000 else str(count)


def config(model: Path) -> bytes:
    reader = gguf.GGUFReader(model)
    family = reader.fields["general.architecture"].contents()
    file_type = reader.fields.get("general.file_type")
    number = int(file_type.contents()) if file_type else 0
    weights = sum(int(np.prod([int(extent) for extent in tensor.shape])) for tensor in reader.tensors)
    renderer = {"gemma4": "gemma4", "laguna": "laguna", "nemotron_h": "nemotron-3-nano"}.get(family)
    return go(
        {
            "model_format": "gguf",
            "model_family": family,
            "model_families": [family],
            "model_type": human(weights),
            "file_type": FILE_TYPES.get(number, "unknown"),
            **({"renderer": renderer, "parser": renderer} if renderer else {}),
            "architecture": "amd64",
            "os": "linux",
        }
    )


def digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def described(media_type: str, content: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest(content), "size": len(content)}


def store(name: str, config_blob: bytes, layers: Sequence[tuple[str, bytes]]) -> dict[str, bytes]:
    """All files of a store with one model: `name` is the path of its manifest, layers are (last word, content)."""
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
        "config": described("application/vnd.docker.container.image.v1+json", config_blob),
        "layers": [described(f"application/vnd.ollama.image.{kind}", content) for kind, content in layers],
    }
    blobs = [config_blob, *(content for _, content in layers)]
    return {
        f"manifests/{name}": go(manifest),
        **{f"blobs/{digest(content).replace(':', '-')}": content for content in blobs},
    }


def files(folder: Path) -> dict[str, bytes]:
    """Everything that lies in a store."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def problems(folder: Path) -> list[str]:
    """Look at a store as a server does: each manifest must be whole, and so must all blobs that it names."""
    found = []
    for path in folder.glob("manifests/*/*/*/*"):
        manifest = json.loads(path.read_bytes())
        for layer in (manifest["config"], *manifest["layers"]):
            blob = folder / "blobs" / layer["digest"].replace(":", "-")
            if not blob.exists() or digest(blob.read_bytes()) != layer["digest"]:
                found.append(f"{path.name}: {layer['mediaType']}")
    return found
