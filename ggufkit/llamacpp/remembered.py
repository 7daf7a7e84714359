"""Models that this build of llama.cpp has survived: an empty file in the cache for each, named by a hash of both."""

import contextlib
import hashlib
from pathlib import Path

from ggufkit.llamacpp import find

_MOST = 1000


def is_known(model: Path) -> bool:
    """Tell whether exactly this file, as it is now, was tried with the build that would load it."""
    try:
        return _mark(model).exists()
    except OSError:
        return False


def remember(model: Path) -> None:
    """Note that a file was tried; a cache that cannot be written is no error."""
    with contextlib.suppress(OSError):
        mark = _mark(model)
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()
        marks = list(mark.parent.iterdir())
        if len(marks) > _MOST:
            for old in sorted(marks, key=lambda file: file.stat().st_mtime)[: _MOST // 2]:
                old.unlink(missing_ok=True)


def _mark(model: Path) -> Path:
    library = find.find().library("llama")
    parts = [
        (str(file.resolve()), status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        for file in (model, library)
        if (status := file.stat())
    ]
    return find.cache_folder() / "survived" / hashlib.sha256(repr(parts).encode()).hexdigest()[:32]
