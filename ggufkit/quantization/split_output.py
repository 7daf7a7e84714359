"""A model in several files that are whole together or not there: they take their names one by one, the first one last.

Only the first part makes a model of the others, so without it there is none. All are written and checked in a hidden
folder; a run that finds such a folder, complete and left by a dead one, ends what that one had begun.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from ggufkit.errors import OutputError
from ggufkit.files import PlannedFile, atomic_output, check_space, is_alive, sync
from ggufkit.undisturbed import undisturbed

_COMPLETE = "complete"


@contextlib.contextmanager
def atomic_parts(parts: Sequence[Path], sizes: Sequence[int]) -> Iterator[Path]:
    """Yield a folder to write files with these names into; when the block ends well, they go where they belong.

    Raises:
        OutputError: no space, no permission, or another process is writing the same model.
    """
    first = parts[0]
    check_space([PlannedFile(path, size) for path, size in zip(parts, sizes, strict=True)])
    folder, is_placing = None, False
    try:
        # The lock on the first part is that of the whole; its empty temporary file makes way for the real one.
        # A signal that comes among the renames is heard when the first part, too, has its name.
        with _as_output_error(first), contextlib.ExitStack() as placing, atomic_output(first) as claim:
            _finish_dead_runs(parts, os.getpid())
            folder = claim.with_suffix(".ggufkit-parts")
            folder.mkdir()
            yield folder
            for path in parts:
                sync(folder / path.name)
            (folder / _COMPLETE).touch()
            sync(folder)
            placing.enter_context(undisturbed())
            is_placing = True
            _place(folder, parts, claim)
    finally:
        # Where a name could not be given some are, and the next run gives the others.
        if folder and not (is_placing and (folder / first.name).exists()):
            shutil.rmtree(folder, ignore_errors=True)


def finish_dead_runs(parts: Sequence[Path]) -> None:
    """End what a killed run had begun: place its parts if all were complete, else remove them."""
    with contextlib.suppress(OutputError):
        _finish_dead_runs(parts)


def _finish_dead_runs(parts: Sequence[Path], alone: int = 0) -> None:
    """As above; a process that is `alone` with the lock may have failed before, and lives."""
    for folder in parts[0].parent.glob(f".{parts[0].name}.*.ggufkit-parts"):
        process = folder.name.removesuffix(".ggufkit-parts").rpartition(".")[2]
        if process.isdigit() and (int(process) == alone or not is_alive(int(process))):
            if (folder / _COMPLETE).exists():
                _place(folder, parts, None)
            shutil.rmtree(folder, ignore_errors=True)


def _place(folder: Path, parts: Sequence[Path], claim: Path | None) -> None:
    """Move the parts to their names; `claim` is the temporary file that its owner renames to the first one."""
    first = parts[0]
    if (folder / first.name).exists():
        first.unlink(missing_ok=True)  # from here on the old model is none, so its other parts may be replaced
    for path in parts[1:]:
        if (folder / path.name).exists():
            (folder / path.name).replace(path)
    if (folder / first.name).exists():
        (folder / first.name).replace(claim or first)


@contextlib.contextmanager
def _as_output_error(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}", hint="write elsewhere with -o") from error
