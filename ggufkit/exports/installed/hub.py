"""The models in Hugging Face's cache: what the snapshots of each repository show, and what was not finished."""

import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path

from ggufkit.checkpoints import hub_cache
from ggufkit.checkpoints.hub import Listing, RemoteFile, Repository
from ggufkit.checkpoints.hub_selection import gguf_models, holds_checkpoint, projectors
from ggufkit.errors import OutputError
from ggufkit.exports.installed.model import InstalledModel, Removal, Where

_UNFINISHED = (".incomplete", ".ggufkit-pull")
_PREFIX = "models--"
_WEIGHTS = (".safetensors", ".bin", ".pth", ".pt", ".gguf")
_LARGEST_CONFIG = 10_000_000


def models() -> list[InstalledModel]:
    """List what the cache holds; repositories that hold no weights (tokenizers, configs) are not models."""
    root = hub_cache.cache_root()
    try:
        folders = sorted(path for path in root.glob(f"{_PREFIX}*") if path.is_dir())
    except OSError as error:
        return [_unreadable(root, error)]
    found: list[InstalledModel] = []
    for folder in folders:
        try:
            found += _of_repository(folder)
        except OSError as error:
            found.append(_unreadable(folder, error))
    return found


def remove(model: InstalledModel) -> Removal:
    """Remove the files of a model from all places that show them; their contents, unless another snapshot has them.

    Raises:
        OutputError: something may not be removed.
    """
    repository = _repository_folder(model)
    before = _bytes(repository)
    try:
        contents = {file.resolve() for file in model.files}
        for file in model.files:
            file.unlink(missing_ok=True)
        still_shown = {path.resolve() for path in _shown(repository)}
        for content in contents - still_shown:
            if content.is_relative_to(repository.resolve()):  # a link may lead anywhere
                content.unlink(missing_ok=True)
        _drop_empty(repository)
        if not any(path.name.endswith(_WEIGHTS) for path in _shown(repository)) and not list(_parts(repository)):
            shutil.rmtree(repository)  # configs, a card: of no use to anybody now
    except OSError as error:
        raise OutputError(f"cannot remove {error.filename or repository}: {error.strerror}") from error
    return Removal(model.name, model.files, before - _bytes(repository))


def _of_repository(folder: Path) -> Iterator[InstalledModel]:
    name = folder.name.removeprefix(_PREFIX).replace("--", "/", 1)
    main = _read(folder / "refs" / "main")
    for snapshot in sorted((folder / "snapshots").glob("*")):
        shown = name if snapshot.name == main else f"{name}@{snapshot.name[:12]}"
        files = {str(path.relative_to(snapshot)): path for path in sorted(snapshot.rglob("*")) if not path.is_dir()}
        here = {path: file for path, file in files.items() if file.is_file()}
        listing = Listing(
            Repository(name), snapshot.name, tuple(RemoteFile(path, file.stat().st_size) for path, file in here.items())
        )
        for kind, found in (("gguf", gguf_models(listing)), ("mmproj", projectors(listing))):
            for model in found:
                parts = [here[file.path] for file in model.files]
                label = model.label if len({m.label for m in found}) == len(found) else model.path
                at, _, revision = shown.partition("@")
                full = f"{at}:{label}" + (f"@{revision}" if revision else "")
                problem = "" if model.is_complete else "parts are missing"
                yield _model(full, kind, model.label, here[model.path], parts, problem)
        rest = [file for path, file in here.items() if not path.endswith(".gguf")]
        if holds_checkpoint(listing):
            adapter = "adapter_config.json" in here and "config.json" not in here
            yield _model(shown, "adapter" if adapter else "checkpoint", _dtype(here), snapshot, rest, "")
    parts = list(_parts(folder))
    if parts:
        yield _model(name, "unfinished", "", None, parts, "a download was interrupted: pull goes on with it")


def _model(name: str, kind: str, label: str, path: Path | None, files: Iterable[Path], problem: str) -> InstalledModel:
    files = tuple(files)
    status = [file.stat() for file in files]
    size = sum({(each.st_dev, each.st_ino): each.st_size for each in status}.values())
    return InstalledModel(
        Where.HUB, name, kind, label, path, files, size, max(each.st_mtime for each in status), problem
    )


def _dtype(files: dict[str, Path]) -> str:
    try:
        path = files["config.json"]
        config = json.loads(path.read_bytes()) if path.stat().st_size < _LARGEST_CONFIG else {}
        quantized = config.get("quantization_config")
        if isinstance(quantized, dict):
            return str(quantized.get("quant_method", "quantized"))
        inner = config.get("text_config")
        found = config.get("torch_dtype") or config.get("dtype")
        return str(found or (inner.get("torch_dtype") or inner.get("dtype") if isinstance(inner, dict) else "") or "")
    except (KeyError, OSError, ValueError, AttributeError, RecursionError):
        return ""


def _parts(folder: Path) -> Iterator[Path]:
    for path in sorted((folder / "blobs").glob("*")):
        if path.name.endswith(_UNFINISHED):
            yield path
    for path in sorted((folder / "blobs").glob(".*")):
        if path.name.endswith(_UNFINISHED):
            yield path


def _shown(folder: Path) -> list[Path]:
    return [path for path in (folder / "snapshots").rglob("*") if path.is_file()]


def _drop_empty(folder: Path) -> None:
    """Remove snapshots in which nothing is left, with their refs."""
    for snapshot in (folder / "snapshots").glob("*"):
        for path in sorted(snapshot.rglob("*"), reverse=True):
            if path.is_dir() and not any(path.iterdir()):
                path.rmdir()
        if snapshot.is_dir() and not any(snapshot.iterdir()):
            snapshot.rmdir()
            for ref in (folder / "refs").rglob("*"):
                if ref.is_file() and _read(ref) == snapshot.name:
                    ref.unlink()


def _repository_folder(model: InstalledModel) -> Path:
    """The folder of the repository; every file of the model must lie in it."""
    root = hub_cache.cache_root().absolute()
    folders = {root / file.absolute().relative_to(root).parts[0] for file in model.files}
    if len(folders) != 1:
        raise OutputError(f"the files of {model.name} lie in several repositories")
    return folders.pop()


def _bytes(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""


def _unreadable(path: Path, error: OSError) -> InstalledModel:
    return InstalledModel(Where.HUB, path.name, "unfinished", "", None, (), 0, 0.0, f"cannot be read: {error.strerror}")
