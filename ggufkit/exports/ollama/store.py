"""Ollama's model store: `blobs/sha256-<64 hex>`, and manifests that name them, one file per model.

Read from manifest/layer.go (NewLayer: temporary file, rename, mode 0644, touch), manifest/manifest.go (WriteManifest,
RemoveLayers, Manifests), manifest/paths.go and server/images.go (PruneLayers). A server looks for manifests anew
whenever it is asked for its models, so none needs to be told. When it starts it deletes blobs that no manifest names
and that were not touched for an hour: so blobs are touched, and a manifest is written at once after them.

Whatever happens, a manifest that has its name is whole and so is all that it names: what is not ready has another
name. Runs of ours keep out of each other's way by a lock on the folder of the blobs.
"""

import contextlib
import errno
import fcntl
import hashlib
import itertools
import json
import os
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ggufkit.errors import InputError, OutputError, UsageError
from ggufkit.exports import placing
from ggufkit.exports.ollama import go_json
from ggufkit.exports.ollama.names import ModelName, name_of_path
from ggufkit.files import PlannedFile, check_space
from ggufkit.progress import Progress, silent

SERVICE_STORE = Path("/usr/share/ollama/.ollama/models")  # where the Linux installer's service keeps its models
MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG_TYPE = "application/vnd.docker.container.image.v1+json"
LAYER_TYPE = "application/vnd.ollama.image."
_DIGEST = re.compile(r"sha256[:-]([0-9a-fA-F]{64})")
_TEMPORARY = "ggufkit-part-"
_LARGEST_MANIFEST = 4 << 20  # bytes
_DENIED = {errno.EACCES, errno.EPERM, errno.EROFS}


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


@dataclass(frozen=True, slots=True)
class Removed:
    """What removing a model took away."""

    name: ModelName
    blobs: tuple[str, ...]
    freed: int  # bytes, of blobs that had no other name


def default_store(environment: Mapping[str, str] = os.environ) -> Path:
    """Say where Ollama looks for models: `$OLLAMA_MODELS`, else `~/.ollama/models` (envconfig/config.go)."""
    chosen = environment.get("OLLAMA_MODELS", "").strip().strip("\"'")
    return Path(chosen) if chosen else Path.home() / ".ollama" / "models"


def manifest_bytes(config: Layer, layers: Iterable[Layer]) -> bytes:
    """Give the bytes of a manifest (manifest/manifest.go: WriteManifest), final newline included."""
    return go_json.encode(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": config.json(),
            "layers": [layer.json() for layer in layers],
        }
    )


def layer_of(media_type: str, content: bytes) -> Layer:
    """Name the blob of a small content."""
    return Layer(media_type, f"sha256:{hashlib.sha256(content).hexdigest()}", len(content))


class Store:
    """One folder of models. It need not exist to be looked at; it is made when something is written to it."""

    def __init__(self, path: Path) -> None:
        self.path = path.expanduser().absolute()
        self.blobs = self.path / "blobs"
        self.manifests = self.path / "manifests"

    # ---- looking

    def blob(self, digest: str) -> Path:
        """Say where a blob lies, or would lie. Raises InputError when this is no digest."""
        if not (found := _DIGEST.fullmatch(digest)):
            raise InputError(f"{digest!r} is no digest of a blob in {self.path}")
        return self.blobs / f"sha256-{found[1].lower()}"

    def models(self) -> list[StoredModel]:
        """List all models by name, broken ones too. Raises InputError when the store cannot be read."""
        return sorted((self._model(name, path) for name, path in self._named()), key=lambda model: model.name.short)

    def existing(self, name: ModelName) -> ModelName:
        """Spell a name as the store does, which knows no difference between small and capital letters.

        As server/routes.go (getExistingName): a model of that name, else each part as some other model spells it.
        """
        known = sorted(other for other, _ in self._named())
        for other in known:
            if other.folded == name.folded:
                return other
        parts = zip(("host", "namespace", "model", "tag"), name.folded, strict=True)
        spelled = [
            next((p for other in known if (p := getattr(other, kind)).lower() == folded), getattr(name, kind))
            for kind, folded in parts
        ]
        return ModelName(*spelled)

    def owner(self) -> int:
        """Number the user who owns the store, or its nearest folder that exists."""
        return _nearest(self.blobs).stat().st_uid

    def check_writable(self, command: str) -> None:
        """Refuse a store that we may not write to; `command` is the rest of a `ggufkit` command line.

        Raises:
            OutputError: with the command that may, as the user who owns it.
            UsageError: something there is no folder.
        """
        for folder in (self.path, self.blobs, self.manifests):
            nearest = _nearest(folder)
            if not nearest.is_dir():
                raise UsageError(f"{nearest} is no folder, so {self.path} is no model store", hint="see --store")
            if os.access(nearest, os.W_OK | os.X_OK):
                continue
            owner = _user_name(nearest.stat().st_uid)
            if nearest.stat().st_uid == os.geteuid():
                raise OutputError(f"no permission to write in {nearest}", hint=f"chmod u+wx {nearest}")
            raise OutputError(
                f"no permission to write in {nearest}: the model store belongs to user {owner}",
                hint=f"sudo -u {owner} ggufkit {command}",
            )

    # ---- writing

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the store against removals; any number of exports may write at once.

        The first of them removes what killed ones left.

        Raises:
            OutputError: a removal goes on, or the store cannot be written.
        """
        with self._errors():
            for folder in (self.blobs, self.manifests):
                self._make(folder)
            with self._locked(alone=False):
                yield

    def put(self, media_type: str, content: bytes) -> Layer:
        """Write a small blob, or look that the one that is there is right. Call within `writing`."""
        layer = layer_of(media_type, content)
        path = self.blob(layer.digest)
        if not self._is_right(path, layer):
            temporary = self._temporary(self.blobs)
            try:
                self._write(temporary, content)
                self._rename(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)
        _touch(path)
        return layer

    def put_file(
        self, media_type: str, source: Path, *, copy: bool = False, progress: Progress = silent
    ) -> tuple[Layer, str]:
        """Give a large file a name among the blobs; say how. A blob of that name is hashed, and replaced when wrong.

        Call within `writing`. Returns the layer and "reflink", "hard link", "copy" or "already there".

        Raises:
            InputError: the file cannot be read, or changed meanwhile.
            OutputError: no space.
        """
        size = source.stat().st_size
        known: Layer | None = None
        if any(self._size(entry) == size for entry in self.blobs.glob("sha256-*")):
            # Perhaps it is there: hash first, so that nothing is copied for nothing.
            known = Layer(media_type, f"sha256:{placing.sha256_of(source, progress)}", size)
            path = self.blob(known.digest)
            if _same_file(path, source) or self._is_right(path, known, progress):
                _touch(path)
                return known, "already there"
        if copy or not _same_device(source, self.blobs) or source.stat().st_uid != self.owner():
            check_space([PlannedFile(self.blobs / "blob", size)])
        temporary = self._temporary(self.blobs)
        try:
            placed = placing.place(source, temporary, owner=self.owner(), copy=copy, progress=progress)
            layer = Layer(media_type, f"sha256:{placed.sha256}", placed.size)
            if placed.way is not placing.Way.HARD_LINK:  # its mode and owner are those of the user's own file
                self._own(temporary, 0o644)
            _touch(temporary)
            self._rename(temporary, self.blob(layer.digest))
        finally:
            temporary.unlink(missing_ok=True)
        return layer, placed.way.value

    def write_manifest(self, name: ModelName, config: Layer, layers: Iterable[Layer]) -> bytes:
        """Name a model whose blobs are all there; returns the bytes. Call within `writing`."""
        layers = list(layers)
        content = manifest_bytes(config, layers)
        for layer in (config, *layers):
            if not self.blob(layer.digest).exists():
                raise OutputError(
                    f"{self.blob(layer.digest)} vanished while the model was exported: a server that starts "
                    "removes blobs without a model",
                    hint="run the same command again",
                )
        path = self.manifests / name.path
        self._make(path.parent)
        # Not below manifests/: every file four levels down there is taken for a model.
        temporary = self._temporary(self.path if _same_device(self.path, self.manifests) else self.manifests)
        try:
            self._write(temporary, content)
            self._rename(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        return content

    def drop_unused(self, digests: Iterable[str]) -> None:
        """Remove blobs that no model names any more, when no other export is at work: the last step of `writing`."""
        with contextlib.suppress(BlockingIOError), self._alone():
            self._drop(digests)

    def digests_of(self, name: ModelName) -> list[str]:
        """List the blobs that a model names; none when there is no such model, or it cannot be read."""
        with contextlib.suppress(InputError):
            return [layer.digest for layer in _layers(_read_manifest(self.manifests / name.path))]
        return []

    def remove(self, name: ModelName) -> Removed:
        """Remove a model, and those of its blobs that no other model names.

        Raises:
            InputError: there is no such model.
            OutputError: it may not be removed, or an export goes on.
        """
        name = self.existing(name)
        path = self.manifests / name.path
        if not path.is_file():
            known = ", ".join(model.name.short for model in self.models()[:10]) or "none"
            raise InputError(f"there is no model {name.short} in {self.path}", hint=f"models there: {known}")
        with self._errors(), self._locked(alone=True):
            digests = self.digests_of(name)
            path.unlink()
            for folder in itertools.islice(path.parents, 3):  # model, namespace, host
                with contextlib.suppress(OSError):
                    folder.rmdir()
            removed, freed = self._drop(digests)
        return Removed(name, removed, freed)

    # ---- within

    def _named(self) -> Iterator[tuple[ModelName, Path]]:
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
            layers = _layers(_read_manifest(path))
            config, weights = self._config(layers[0]), [x for x in layers if x.media_type == f"{LAYER_TYPE}model"]
            missing = [layer.digest for layer in layers if not self._is_there(layer)]
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

    def _is_there(self, layer: Layer) -> bool:
        return self._size(self.blob(layer.digest)) == layer.size

    @staticmethod
    def _size(path: Path) -> int | None:
        try:
            return path.stat().st_size
        except FileNotFoundError:  # a server may remove it at any moment
            return None

    def _config(self, layer: Layer) -> dict[str, Any]:
        path = self.blob(layer.digest)
        try:
            content = json.loads(path.read_bytes()[:_LARGEST_MANIFEST])
        except FileNotFoundError:
            return {}
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path} is no config of a model: {error}") from error
        return content if isinstance(content, dict) else {}

    def _is_right(self, path: Path, layer: Layer, progress: Progress = silent) -> bool:
        """Look whether a blob has the content that its name promises."""
        if self._size(path) != layer.size:
            return False
        return f"sha256:{placing.sha256_of(path, progress, 'checking')}" == layer.digest

    def _drop(self, digests: Iterable[str]) -> tuple[tuple[str, ...], int]:
        used: set[str] = set()
        for path in self.manifests.glob("*/*/*/*"):
            if path.is_file():
                try:
                    used |= {self.blob(layer.digest).name for layer in _layers(_read_manifest(path))}
                except InputError:
                    return (), 0  # who knows what it names: leave all blobs alone, as Ollama does
        newer = self.path / "manifests-v2"  # later servers keep names here, which lead to blobs
        if newer.is_dir():
            return (), 0
        removed, freed = [], 0
        for digest in dict.fromkeys(digests):
            path = self.blob(digest)
            if path.name in used:
                continue
            with contextlib.suppress(FileNotFoundError):
                status = path.lstat()
                path.unlink()
                removed.append(digest)
                freed += status.st_size if status.st_nlink == 1 else 0
        return tuple(removed), freed

    @contextlib.contextmanager
    def _locked(self, *, alone: bool) -> Iterator[None]:
        descriptor = os.open(self.blobs, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if alone:
                    raise OutputError(
                        f"{self.path} is being written by another ggufkit", hint="try again when it is done"
                    ) from None
            else:
                self._remove_leftovers()  # we are alone, so nobody is at work on them
            if not alone:
                fcntl.flock(descriptor, fcntl.LOCK_SH)  # whoever is alone is so for a moment only
            self._lock = descriptor
            yield
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Turn the lock that we share into one of our own, as the last thing that is done under it.

        Raises BlockingIOError when others share it; ours is then lost (flock does not convert in one step).
        """
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield

    def _remove_leftovers(self) -> None:
        for folder in {self.path, self.blobs, self.manifests}:
            for path in folder.glob(f".{_TEMPORARY}*"):
                path.unlink(missing_ok=True)

    def _temporary(self, folder: Path) -> Path:
        return folder / f".{_TEMPORARY}{os.getpid()}-{secrets.token_hex(4)}"

    def _write(self, path: Path, content: bytes) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        with open(descriptor, "wb") as file:  # noqa: PTH123 - it is a descriptor
            file.write(content)
            file.flush()
            os.fsync(descriptor)
        self._own(path, 0o644)

    def _rename(self, temporary: Path, path: Path) -> None:
        temporary.replace(path)
        descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _make(self, folder: Path) -> None:
        missing = [path for path in (folder, *folder.parents) if not path.exists()]
        for path in reversed(missing):
            with contextlib.suppress(FileExistsError):
                path.mkdir()
                self._own(path, 0o755)

    def _own(self, path: Path, mode: int) -> None:
        """Set the mode that Ollama sets; when root writes to another's store, what is new becomes his."""
        path.chmod(mode)
        if os.geteuid() == 0:
            status = _nearest(self.path).stat()
            os.chown(path, status.st_uid, status.st_gid)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            hint = "sudo -u OWNER ggufkit … writes as another user" if error.errno in _DENIED else None
            if error.errno == errno.ENOSPC:
                hint = "free some space, or name another store with --store"
            raise OutputError(f"cannot write {error.filename or self.path}: {error.strerror}", hint=hint) from error


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes()[:_LARGEST_MANIFEST])
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is no manifest: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} is no manifest: it holds no JSON object")
    return content


def _layers(manifest: dict[str, Any]) -> list[Layer]:
    """Read the config and the layers of a manifest, in this order."""
    values = manifest.get("layers") or []
    entries = [manifest.get("config"), *(values if isinstance(values, list) else [None])]
    layers = []
    for entry in entries:
        media_type, digest, size = (
            (entry.get(key) for key in ("mediaType", "digest", "size")) if isinstance(entry, dict) else (None,) * 3
        )
        if not isinstance(media_type, str) or not isinstance(size, int) or not _DIGEST.fullmatch(str(digest)):
            raise InputError(f"the manifest names no blob in {entry!r:.80}")
        layers.append(Layer(media_type, str(digest), size))
    return layers


def _nearest(path: Path) -> Path:
    return next((folder for folder in (path, *path.parents) if folder.exists()), Path("/"))


def _same_device(one: Path, other: Path) -> bool:
    return one.stat().st_dev == other.stat().st_dev


def _same_file(one: Path, other: Path) -> bool:
    return one.exists() and one.samefile(other)


def _touch(path: Path) -> None:
    with contextlib.suppress(PermissionError):  # a blob of another user, which is in use or young all the same
        os.utime(path)


def _user_name(number: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)
