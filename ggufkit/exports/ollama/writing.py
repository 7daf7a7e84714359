"""Writing to Ollama's store, so that a manifest that has its name is whole, and so is all that it names.

Read from manifest/layer.go (NewLayer: temporary file, rename, mode 0644, touch), manifest/manifest.go (WriteManifest,
RemoveLayers) and server/images.go (PruneLayers). A server looks for manifests anew whenever it is asked for its
models, so none needs to be told. When it starts it deletes blobs that no manifest names and that were not touched for
an hour: so blobs are touched, and a manifest is written at once after them.
"""

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ggufkit.errors import InputError, OutputError
from ggufkit.exports import placing
from ggufkit.exports.merging import Merged
from ggufkit.exports.ollama import store_files as files
from ggufkit.exports.ollama.manifests import Layer, layer_of, layers_of, manifest_bytes, read_manifest
from ggufkit.exports.ollama.names import ModelName
from ggufkit.exports.ollama.store import Store, size_of
from ggufkit.progress import Progress, silent


@dataclass(frozen=True, slots=True)
class Removed:
    """What removing a model took away."""

    name: ModelName
    blobs: tuple[str, ...]
    freed: int  # bytes, of blobs that had no other name


@contextlib.contextmanager
def writing(store: Store) -> Iterator["Writer"]:
    """Hold a store against removals, and yield what writes to it; any number of exports may write at once.

    Raises:
        OutputError: the store cannot be written.
    """
    for folder in (store.blobs, store.manifests):
        files.make_folder(store, folder)
    with files.locked(store, alone=False, drop=_drop) as lock:
        yield Writer(store, lock)


def remove(store: Store, name: ModelName) -> Removed:
    """Remove a model, and those of its blobs that no other model names.

    Raises:
        InputError: there is no such model.
        OutputError: it may not be removed, or an export goes on.
    """
    name = store.existing(name)
    path = store.manifests / name.path
    if not path.is_file():
        known = ", ".join(model.name.short for model in store.models()[:10]) or "none"
        raise InputError(f"there is no model {name.short} in {store.path}", hint=f"models there: {known}")
    files.make_folder(store, store.blobs)
    try:
        with files.locked(store, alone=True, drop=_drop):
            digests = store.digests_of(name)
            path.unlink()
            for folder in itertools.islice(path.parents, 3):  # model, namespace, host
                with contextlib.suppress(OSError):
                    folder.rmdir()
            return Removed(name, *_drop(store, digests))
    except OSError as error:
        raise OutputError(f"cannot remove {error.filename or path}: {error.strerror}") from error


class Writer:
    """What may write to a store, while a lock on it is held. All methods raise OutputError when the disk does not."""

    def __init__(self, store: Store, lock: int) -> None:
        self._store = store
        self._lock = lock

    def put(self, media_type: str, content: bytes) -> Layer:
        """Write a small blob, or look that the one that is there is right."""
        layer = layer_of(media_type, content)
        path = self._store.blob(layer.digest)
        if not _is_right(path, layer):
            with files.temporary_file(self._store, self._store.blobs) as temporary:
                files.write_new(self._store, temporary, content)
                files.rename(temporary, path)
        files.touch(path)
        return layer

    def put_file(
        self, media_type: str, source: Path, *, copy: bool = False, progress: Progress = silent
    ) -> tuple[Layer, str]:
        """Give a large file a name among the blobs. A blob of that name is hashed, and replaced when it is wrong.

        Returns the layer, and "reflink", "hard link", "copy" or "already there".

        Raises:
            InputError: the file cannot be read, or changed meanwhile.
        """
        store = self._store
        status = source.stat()
        if any(size_of(blob) == status.st_size for blob in store.blobs.glob("sha256-*")):
            # Perhaps it is there: hash first, so that nothing is copied for nothing.
            known = Layer(media_type, f"sha256:{placing.sha256_of(source, progress)}", status.st_size)
            path = store.blob(known.digest)
            linked = _is_same(path, source)
            if (linked and not copy) or (not linked and _is_right(path, known, progress)):
                files.touch(path)
                return known, "already there"
        owner = files.owner_of(store)
        if copy or not files.same_device(source, store.blobs) or status.st_uid != owner:
            files.check_room(store.blobs / "blob", status.st_size)
        with files.temporary_file(store, store.blobs) as temporary:
            placed = placing.place(source, temporary, owner=owner, copy=copy, progress=progress)
            layer = Layer(media_type, f"sha256:{placed.sha256}", placed.size)
            if placed.way is not placing.Way.HARD_LINK:  # its mode and owner are those of the user's own file
                files.own(store, temporary, 0o644)
            files.touch(temporary)
            files.rename(temporary, store.blob(layer.digest))
        return layer, placed.way.value

    def put_merged(self, media_type: str, model: Merged, progress: Progress = silent) -> Layer:
        """Write a model in parts as one blob. Raises GgufFileError when a part has changed."""
        store = self._store
        files.check_room(store.blobs / "blob", model.size)
        with files.temporary_file(store, store.blobs) as temporary:
            layer = Layer(media_type, f"sha256:{model.write(temporary, progress)}", model.size)
            files.flush(temporary)
            files.own(store, temporary, 0o644)
            files.rename(temporary, store.blob(layer.digest))
        return layer

    def write_manifest(self, name: ModelName, config: Layer, layers: Iterable[Layer]) -> bytes:
        """Name a model whose blobs are all there; returns the bytes.

        Raises:
            OutputError: a blob vanished meanwhile, or the manifest cannot be written.
        """
        store, layers = self._store, list(layers)
        content = manifest_bytes(config, layers)
        for layer in (config, *layers):
            if not store.blob(layer.digest).exists():
                raise OutputError(
                    f"{store.blob(layer.digest)} vanished while the model was exported: a server that starts "
                    "removes blobs without a model",
                    hint="run the same command again",
                )
        path = store.manifests / name.path
        files.make_folder(store, path.parent)
        with files.temporary_file(store, store.manifests) as temporary:
            files.write_new(store, temporary, content)
            files.rename(temporary, path)
        return content

    @contextlib.contextmanager
    def dropping(self, digests: Sequence[str]) -> Iterator[None]:
        """Remove blobs when the block has ended and no model names them any more; the last thing to be done.

        Not when another export is at work. Should we be killed in between, or a disk fail when the name was given
        already, the next run removes them.
        """
        if not digests:
            yield
            return
        note = files.note_unused(self._store, digests)
        try:
            yield
        except BaseException:
            used = _used(self._store)
            if used is None or used.issuperset(self._store.blob(digest).name for digest in digests):
                note.unlink(missing_ok=True)
            raise
        if files.take_alone(self._lock):
            _drop(self._store, digests)
            note.unlink(missing_ok=True)


def _drop(store: Store, digests: Iterable[str]) -> tuple[tuple[str, ...], int]:
    """Remove blobs that no manifest names; returns their digests, and the bytes that this freed."""
    used = _used(store)
    if used is None:
        return (), 0
    removed, freed = [], 0
    for digest in dict.fromkeys(digests):
        path = store.blob(digest)
        if path.name in used:
            continue
        with contextlib.suppress(FileNotFoundError):
            status = path.lstat()
            path.unlink()
            removed.append(digest)
            freed += status.st_size if status.st_nlink == 1 else 0
    return tuple(removed), freed


def _used(store: Store) -> set[str] | None:
    """Return the names of the blobs that manifests name; None where that cannot be known."""
    used: set[str] = set()
    try:
        for _, path in store.named():
            used |= {store.blob(layer.digest).name for layer in layers_of(read_manifest(path))}
    except InputError:
        return None  # who knows what it names: leave all blobs alone, as Ollama does
    if (store.path / "manifests-v2").is_dir():
        return None  # some versions of Ollama keep names there, which lead to blobs as well
    return used


def _is_right(path: Path, layer: Layer, progress: Progress = silent) -> bool:
    """Look whether a blob has the content that its name promises."""
    if size_of(path) != layer.size:
        return False
    return f"sha256:{placing.sha256_of(path, progress, 'checking')}" == layer.digest


def _is_same(one: Path, other: Path) -> bool:
    return one.exists() and one.samefile(other)
