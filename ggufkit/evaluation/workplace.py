"""Where an evaluation keeps what it has done so far: the same one finds it again, and nobody has to tidy up.

It is a folder in the cache, named by what is measured. It goes away when the evaluation ends well; those of others that
were interrupted go when nobody came back for a week, or when a file that they had read has changed since.
"""

import hashlib
import json
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from ggufkit.errors import OutputError
from ggufkit.files import locked
from ggufkit.llamacpp.find import cache_folder

KEPT_DAYS = 7
_ABOUT = "evaluation.json"  # the files that it has read, so that a change is seen
_NAME = re.compile(r"[0-9a-f]{16}")
# What is made in a moment, and so is no reason to come back.
_CHEAP = (_ABOUT, "tokenize.json", "*.request.json", "*.error.json", "*.prompts.jsonl", "text-tokens*", "chunks.i32")


@contextmanager
def workplace(root: Path | None, inputs: Sequence[Path], settings: str, note: Callable[[str], None]) -> Iterator[Path]:
    """Yield the folder of this evaluation in `root` (None: in ggufkit's cache); one process has it at a time.

    Raises:
        OutputError: another process does the same evaluation.
    """
    root = root or cache_folder() / "evaluations"
    root.mkdir(parents=True, exist_ok=True)
    stamps = {str(path.absolute()): _stamp(path) for path in inputs}
    digest = hashlib.sha256((json.dumps(list(stamps.items())) + settings).encode())
    folder = root / digest.hexdigest()[:16]
    remove_stale(root, but=folder)
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(folder))
        except OutputError as error:
            raise OutputError(
                f"an evaluation of the same base and texts is at work: {error}",
                hint="wait for it, or give all models in one call",
            ) from error
        folder.mkdir(exist_ok=True)
        (folder / _ABOUT).write_text(json.dumps(stamps))
        try:
            yield folder
        except BaseException:
            _leave(folder, note)
            raise
        shutil.rmtree(folder, ignore_errors=True)


def remove_stale(root: Path, *, but: Path) -> None:
    """Remove what interrupted evaluations left that nobody will come back for; those that run are not touched."""
    for folder in root.iterdir():
        if folder == but or not _NAME.fullmatch(folder.name) or folder.is_symlink() or not folder.is_dir():
            continue
        # Who is at work there holds the lock; who waits for it makes the folder anew.
        with suppress(OSError, OutputError), locked(folder):
            if _is_stale(folder):
                shutil.rmtree(folder, ignore_errors=True)


def _is_stale(folder: Path) -> bool:
    if not (folder / _ABOUT).is_file():  # not one of ours, whatever its name
        return False
    newest = max(path.stat().st_mtime for path in (folder, *folder.iterdir()))
    if time.time() - newest > KEPT_DAYS * 86400:
        return True
    try:
        stamps: Mapping[str, str] = json.loads((folder / _ABOUT).read_text())
        return any(_stamp(Path(name)) != stamp for name, stamp in stamps.items())
    except (OSError, ValueError, RecursionError, TypeError, AttributeError):
        return False  # its age will tell


def _stamp(path: Path) -> str:
    try:
        status = path.stat()
    except OSError:
        return "gone"
    return f"{status.st_size} {status.st_mtime_ns}"


def _leave(folder: Path, note: Callable[[str], None]) -> None:
    """Say what stays behind; where nothing was done yet, nothing does."""
    dear = [path for path in folder.iterdir() if not any(path.match(pattern) for pattern in _CHEAP)]
    size = sum(path.stat().st_size for path in dear if path.is_file())
    if size:
        note(
            f"what is done so far is kept in {folder} ({size / 1e6:,.1f} MB) for {KEPT_DAYS} days:"
            " the same command goes on from there"
        )
    else:
        shutil.rmtree(folder, ignore_errors=True)
