"""The models in plain folders: LM Studio's, and ggufkit's own."""

import os
import re
from pathlib import Path

from ggufkit.checkpoints import own_models
from ggufkit.checkpoints.hub import Listing, RemoteFile, Repository
from ggufkit.checkpoints.hub_selection import RemoteGguf, gguf_models, projectors
from ggufkit.errors import OutputError
from ggufkit.exports.installed.model import InstalledModel, Removal, Where
from ggufkit.exports.lmstudio import models_folder

_DEPTH = 4
_MOST = 20_000  # entries looked at: it may be a home folder that somebody named
_CHECKPOINT = re.compile(r"(model|pytorch_model).*\.(safetensors|bin)")
# What a checkpoint has beside its weights. The folder may be one where somebody works: all else in it is theirs.
_BESIDE = re.compile(
    r"(config|generation_config|merges|tekken|video_preprocessor_config)\.(json|txt)|chat_template\.(jinja|json)"
    r"|(tokenizer|sentencepiece|spiece|vocab|special_tokens_map|added_tokens|preprocessor_config|processor_config)"
    r"[\w.-]*\.(json|model|txt|spm|vocab)|[\w.-]+\.tiktoken|(model|pytorch_model)[\w.-]*\.index\.json"
)


def models(folder: Path, where: Where) -> list[InstalledModel]:
    """List the GGUF models and the checkpoints in a folder and those below it, not too deep."""
    files = _files(folder)
    listing = Listing(
        Repository("folder/folder"), "", tuple(RemoteFile(str(path.relative_to(folder)), size) for path, size in files)
    )
    found = [
        _model(folder, model, kind, where)
        for kind, listed in (("gguf", gguf_models(listing)), ("mmproj", projectors(listing)))
        for model in listed
    ]
    by_folder: dict[Path, dict[str, int]] = {}
    for path, size in files:
        by_folder.setdefault(path.parent, {})[path.name] = size
    for place, names in by_folder.items():
        if "config.json" in names and any(_CHECKPOINT.fullmatch(name) for name in names):
            paths = tuple(place / name for name in names if _CHECKPOINT.fullmatch(name) or _BESIDE.fullmatch(name))
            found.append(
                InstalledModel(
                    where,
                    _name(folder, place),
                    "checkpoint",
                    "",
                    place,
                    paths,
                    sum(names[path.name] for path in paths),
                    place.stat().st_mtime,
                )
            )
    return found


def remove(model: InstalledModel) -> Removal:
    """Remove a model's files, and folders that are empty then.

    Raises:
        OutputError: something may not be removed.
    """
    try:
        freed = sum(file.stat().st_size for file in model.files if file.stat().st_nlink == 1)
        for file in model.files:
            file.unlink()
        roots = {models_folder(), *own_models.folders()}
        for folder in {file.parent for file in model.files} - roots:
            if not any(folder.iterdir()):
                folder.rmdir()
    except OSError as error:
        raise OutputError(f"cannot remove {error.filename}: {error.strerror}") from error
    return Removal(model.name, model.files, freed)


def _model(folder: Path, model: RemoteGguf, kind: str, where: Where) -> InstalledModel:
    paths = tuple(folder / file.path for file in model.files)
    problem = "" if model.is_complete else "parts are missing"
    path = paths[0]
    label = model.label if model.label != Path(model.path).stem else ""
    return InstalledModel(
        where, _name(folder, path), kind, label, path, paths, model.size, path.stat().st_mtime, problem
    )


def _name(folder: Path, path: Path) -> str:
    return str(path.relative_to(folder)) if path != folder else folder.name


def _files(folder: Path) -> list[tuple[Path, int]]:
    found: list[tuple[Path, int]] = []
    seen = 0
    for place, folders, names in os.walk(folder):
        depth = len(Path(place).relative_to(folder).parts)
        folders[:] = sorted(name for name in folders if not name.startswith(".")) if depth < _DEPTH else []
        seen += len(names) + 1
        if seen > _MOST:
            break
        for name in sorted(names):
            path = Path(place, name)
            if not name.startswith(".") and path.is_file():
                found.append((path, path.stat().st_size))
    return found
