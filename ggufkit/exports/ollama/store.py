"""Ollama's model store as it lies there: `blobs/sha256-<64 hex>`, and manifests that name them, one file per model.

Read from manifest/manifest.go (Manifests), manifest/paths.go, envconfig/config.go and server/routes.go.
"""

import contextlib
import hashlib
import json
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ggufkit.errors import InputError
from ggufkit.exports.ollama.manifests import DIGEST, LARGEST, LAYER_TYPE, Layer, layers_of, read_manifest
from ggufkit.exports.ollama.names import ModelName, name_of_path
from ggufkit.homes import expanded, home_folder

SERVICE_STORE = Path("/usr/share/ollama/.ollama/models")  # where the Linux installer's service keeps its models


@dataclass(frozen=True, slots=True)
class StoredModel:
    """A model of the store. What its config does not say is empty; `problem` says why it would not run."""

    name: ModelName
    digest: str  # of the manifest, hexadecimal: what `ollama list` shows the beginning of
    size: int  # bytes of all its blobs
    modified: float  # seconds since 1970
    family: str = ""
    parameters: str = ""
    quantization: str = ""
    model: Path | None = None  # the blob with the weights
    problem: str = ""


def default_store(environment: Mapping[str, str] = os.environ) -> Path:
    """Say where Ollama looks for models: `$OLLAMA_MODELS`, else `~/.ollama/models` (envconfig/config.go)."""
    chosen = environment.get("OLLAMA_MODELS", "").strip().strip("\"'")
    return Path(chosen) if chosen else home_folder() / ".ollama" / "models"


def may_be_folder(path: Path) -> bool:
    """Tell whether a path is a folder, or lies in one that is closed to us, as the home of a service may be."""
    try:
        return stat.S_ISDIR(path.stat().st_mode)
    except PermissionError:
        return True
    except OSError:
        return False


class Store:
    """One folder of models. It need not exist to be looked at; `writing.py` makes it when something is written."""

    def __init__(self, path: Path) -> None:
        self.path = expanded(path).absolute()
        self.blobs = self.path / "blobs"
        self.manifests = self.path / "manifests"

    def blob(self, digest: str) -> Path:
        """Say where a blob lies, or would lie. Raises InputError when this is no digest."""
        if not (found := DIGEST.fullmatch(digest)):
            raise InputError(f"{digest!r} is no digest of a blob in {self.path}")
        return self.blobs / f"sha256-{found[1].lower()}"

    def models(self) -> list[StoredModel]:
        """List all models by name, broken ones too. Raises InputError when the store cannot be read."""
        return sorted((self._model(name, path) for name, path in self.named()), key=lambda model: model.name.short)

    def existing(self, name: ModelName) -> ModelName:
        """Spell a name as the store does, which knows no difference between small and capital letters.

        As server/routes.go (getExistingName): a model of that name, else each part as some other model spells it.
        """
        known = sorted(other for other, _ in self.named())
        for other in known:
            if other.folded == name.folded:
                return other
        parts = zip(("host", "namespace", "model", "tag"), name.folded, strict=True)
        spelled = [
            next((p for other in known if (p := getattr(other, kind)).lower() == folded), getattr(name, kind))
            for kind, folded in parts
        ]
        return ModelName(*spelled)

    def digests_of(self, name: ModelName) -> list[str]:
        """List the blobs that a model names; none when there is no such model, or it cannot be read."""
        with contextlib.suppress(InputError):
            return [layer.digest for layer in layers_of(read_manifest(self.manifests / name.path))]
        return []

    def named(self) -> Iterator[tuple[ModelName, Path]]:
        """List the names and manifests of all models. Raises InputError when the store cannot be read."""
        try:
            paths = sorted(self.manifests.glob("*/*/*/*"))
        except OSError as error:
            raise InputError(f"cannot read {self.manifests}: {error.strerror}") from error
        for path in paths:
            if path.is_file() and (name := name_of_path(path)):
                yield name, path

    def _model(self, name: ModelName, path: Path) -> StoredModel:
        modified = path.stat().st_mtime
        try:
            content = path.read_bytes()
            layers = layers_of(read_manifest(path))
            config, weights = self._config(layers[0]), [x for x in layers if x.media_type == f"{LAYER_TYPE}model"]
            missing = [layer.digest for layer in layers if size_of(self.blob(layer.digest)) != layer.size]
        except (InputError, OSError) as error:
            return StoredModel(name, "", 0, modified, problem=str(error))
        return StoredModel(
            name,
            hashlib.sha256(content).hexdigest(),
            sum({layer.digest: layer.size for layer in layers}.values()),
            modified,
            str(config.get("model_family") or ""),
            str(config.get("model_type") or ""),
            str(config.get("file_type") or ""),
            model=self.blob(weights[0].digest) if weights else None,
            problem=f"blob {missing[0]} is missing or cut off" if missing else "",
        )

    def _config(self, layer: Layer) -> dict[str, Any]:
        path = self.blob(layer.digest)
        try:
            content = json.loads(path.read_bytes()[:LARGEST])
        except FileNotFoundError:
            return {}
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path} is no config of a model: {error}") from error
        return content if isinstance(content, dict) else {}


def size_of(path: Path) -> int | None:
    """Size a blob; None when there is none: a server may remove it at any moment."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return None
