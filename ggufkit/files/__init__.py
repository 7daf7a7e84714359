"""Writing files so that none is ever half there.

`checks.py` looks before any work, `outputs.py` writes, `locks.py` lets one process at a time do so, `leftovers.py`
removes what killed ones left, `disk.py` knows what a disk can do to us.
"""

from ggufkit.files.checks import PlannedFile, check_output, check_space
from ggufkit.files.disk import begin_writing_back, sync
from ggufkit.files.leftovers import remove_leftovers, tidy
from ggufkit.files.locks import NO_LOCKS, is_alive, locked
from ggufkit.files.outputs import (
    PartialFile,
    atomic_folder,
    atomic_name,
    atomic_output,
    is_begun,
    resumable_output,
    write_atomically,
)

__all__ = [
    "NO_LOCKS",
    "PartialFile",
    "PlannedFile",
    "atomic_folder",
    "atomic_name",
    "atomic_output",
    "begin_writing_back",
    "check_output",
    "check_space",
    "is_alive",
    "is_begun",
    "locked",
    "remove_leftovers",
    "resumable_output",
    "sync",
    "tidy",
    "write_atomically",
]
