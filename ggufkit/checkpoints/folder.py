"""What may not lie in a model folder: links that lead out of it, and descriptions too large to be any."""

import os
import re
from pathlib import Path

from ggufkit.errors import CheckpointError, UnsafeError

_WEIGHTS = {".safetensors", ".bin"}
# Above the largest that are known: a tokenizer.json of 35 MB, an index of 20 MB.
_LARGEST = {".json": 128 << 20, ".model": 64 << 20, ".txt": 64 << 20, ".tiktoken": 64 << 20}
_LARGEST |= {".jinja": 8 << 20, ".md": 8 << 20}
_READ = re.compile(  # what somebody here opens; a data set beside the model may be as large as it likes
    r"(?:.*config|.*\.index|.*tokens|.*tokens_map|.*tokenizer.*|tekken|vocab|modules|params|chat_template.*)\.json"
    r"|.*\.(?:model|tiktoken|jinja)|(?:vocab|merges)\.txt|README\.md"
)
_DEEPEST = 2  # where the files of a tokenizer's templates and of a pooling module lie


def check_folder(folder: Path) -> None:
    """Look at the names, links and sizes of a model folder's files, before any of them is opened.

    A link may lead to another file of the folder, or, in a snapshot of the hub's cache, to the contents of its own
    repository. Files of kinds that are never read may be anything.

    Raises:
        UnsafeError: a link leads out of the folder.
        CheckpointError: a description is larger than any that is one; the folder cannot be listed.
    """
    roots = _roots(folder)
    try:
        for entry in _entries(folder, _DEEPEST):
            if entry.is_symlink() and not _leads_to(entry, roots):
                raise UnsafeError(
                    f"{entry.path} is a link to a file outside of its folder: {Path(entry.path).readlink()}",
                    hint=f"if that file belongs to the model, put a copy of it in place of the link: "
                    f"cp --remove-destination {os.path.realpath(entry.path)} {entry.path}",
                )
            largest = _LARGEST.get(_suffix(entry)) if _READ.fullmatch(entry.name) else None
            if largest is not None and entry.is_file() and entry.stat().st_size > largest:
                raise CheckpointError(
                    f"{entry.path} is too large for what it should hold ({entry.stat().st_size:,} bytes)",
                    hint=f"download {entry.name} again",
                )
    except OSError as error:
        raise CheckpointError(f"cannot list {folder}: {error.strerror}") from error


def is_plain_name(name: str) -> bool:
    """Tell whether a name can only be that of a file in the folder itself, on every system."""
    return bool(name) and name not in (".", "..") and not any(mark in name for mark in "/\\:\0")


def _entries(folder: Path, deep: int) -> "list[os.DirEntry[str]]":
    with os.scandir(folder) as entries:
        found = list(entries)
    files = [entry for entry in found if _suffix(entry) in _WEIGHTS or _suffix(entry) in _LARGEST]
    if deep > 1:
        for entry in found:
            if entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."):
                files += _entries(Path(entry.path), deep - 1)
    return files


def _suffix(entry: "os.DirEntry[str]") -> str:
    return Path(entry.name).suffix.lower()


def _roots(folder: Path) -> list[str]:
    """Give the places that links may lead to: the folder itself, and what a snapshot is made of."""
    places = (folder.absolute(), folder.resolve())
    snapshots = (
        at
        for place in places
        for at in (place, *place.parents[:-2])  # the model may lie in a folder of the snapshot
        if at.parent.name == "snapshots" and at.parents[1].name.startswith("models--")
    )
    return [str(places[1]), *(os.path.realpath(place.parents[1] / "blobs") for place in snapshots)]


def _leads_to(entry: "os.DirEntry[str]", roots: list[str]) -> bool:
    target = os.path.realpath(entry.path)
    return any(target == root or target.startswith(root + os.sep) for root in roots)
