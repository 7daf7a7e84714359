"""What killed runs left behind: temporary files, and the locks, parts and journals beside an output."""

import contextlib
import glob
import re
import shutil
from pathlib import Path

from ggufkit.errors import OutputError
from ggufkit.files.locks import LOCK, is_alive, is_held, locked

PARTIAL_KINDS = ("ggufkit-partial", "ggufkit-journal")
_TEMPORARY = re.compile(r"\.(?P<name>.+)\.(?P<pid>\d+)\.ggufkit-part")


def remove_leftovers_of(target: Path, *, partial: bool = True, alone: bool = True) -> None:
    """Remove temporary files that runs now dead left behind; `alone`: we hold the lock, so none is in use."""
    for kind in PARTIAL_KINDS if partial and alone else ():
        target.with_name(f".{target.name}.{kind}").unlink(missing_ok=True)
    for file in target.parent.glob(f".{glob.escape(target.name)}.*.ggufkit-part"):
        found = _TEMPORARY.fullmatch(file.name)
        if found and found["name"] == target.name and (alone or not is_alive(int(found["pid"]))):
            remove(file)


def tidy(path: Path) -> None:
    """Remove what a killed run left beside an output that need not be written, because it is there."""
    target = path.parent.resolve() / path.name
    with contextlib.suppress(OutputError, OSError), locked(target) as alone:
        remove_leftovers_of(target, alone=alone)


def remove(temporary: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if temporary.is_dir() and not temporary.is_symlink():
        shutil.rmtree(temporary, ignore_errors=True)
    else:
        temporary.unlink(missing_ok=True)


def remove_leftovers(folder: Path) -> None:
    """Remove what killed runs left in a folder: temporary files, and the locks and journals of files that are whole.

    What the next run may go on with stays: a partial file and its journal.
    """
    for file in folder.glob(".*.ggufkit-part"):
        if (found := _TEMPORARY.fullmatch(file.name)) and not is_alive(int(found["pid"])):
            with contextlib.suppress(OutputError, OSError), locked(folder / found["name"]):
                remove(file)
    partial, journal = PARTIAL_KINDS
    for file in folder.glob(f".*.{journal}"):
        name = file.name.removeprefix(".").removesuffix(f".{journal}")
        with contextlib.suppress(OutputError, OSError), locked(folder / name):
            if not file.with_name(f".{name}.{partial}").exists():
                file.unlink(missing_ok=True)
    for lock in folder.glob(f".*.{LOCK}"):
        if not is_held(lock):
            name = lock.name.removeprefix(".").removesuffix(f".{LOCK}")
            with contextlib.suppress(OutputError, OSError), locked(folder / name):
                pass  # whoever gets a lock removes it
