"""The model whose types are chosen: a GGUF file, or a checkpoint, which is looked at first and converted then."""

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ggufkit import files
from ggufkit.cli import _output

if TYPE_CHECKING:
    from ggufkit.cli._optimize_work import Wish
    from ggufkit.progress import Progress


def must_be_converted_first(wish: "Wish") -> bool:
    """Whether nothing can be said of a checkpoint before it is converted.

    Raises:
        UsageError: and nothing is to be written.
    """
    from ggufkit.errors import UsageError
    from ggufkit.one_pass import converts_natively

    if not wish.source.is_dir() or converts_natively(wish.source):
        return False
    if wish.dry_run:
        raise UsageError(
            f"only llama.cpp's converter knows {wish.source}, so its tensors are known when that has run",
            hint=f"ggufkit convert {wish.source}, then optimize the result",
        )
    wish.tell(f"{wish.source} is converted first: only then it is known how long the rest will take")
    return True


@contextlib.contextmanager
def looked_at(wish: "Wish", model: Path | None) -> Iterator[Path]:
    """Yield what the estimate is made of: the model, or for a checkpoint a header with a hole in place of weights."""
    if model is not None or not wish.source.is_dir():
        yield model or wish.source
        return
    from ggufkit.conversion import OutputType
    from ggufkit.one_pass import open_skeleton

    with open_skeleton(wish.source, OutputType(wish.between)) as skeleton:
        yield skeleton.path


@contextlib.contextmanager
def as_gguf(wish: "Wish", progress: "Progress") -> Iterator[tuple[Path, Path | None]]:
    """Yield a GGUF file and the folder of the state; a checkpoint is converted into that folder, for so long."""
    if not wish.source.is_dir():
        yield wish.source, wish.options.folder
        return
    from ggufkit.conversion import Keep, OutputType, convert
    from ggufkit.llamacpp.find import cache_folder

    name = hashlib.sha256(str(wish.source.resolve()).encode()).hexdigest()[:16]
    folder = wish.options.folder or cache_folder() / "allocations" / name
    kind = OutputType(wish.between)
    model = folder / f"{wish.source.resolve().name}-{kind.name}.gguf"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with files.locked(folder.with_name(f"{folder.name}-converted")):
        folder.mkdir(exist_ok=True)
        try:
            result = convert(
                wish.source,
                model,
                outtype=kind,
                keep=Keep.NONE,
                threads=wish.options.quantize.threads,
                progress=progress,
            )
            for warning in result.warnings:
                _output.warn(warning)
            yield model, folder
        finally:
            model.unlink(missing_ok=True)
