"""Home folders: ours, where there may be none, as in a container; and those that `~` stands for."""

import os
import tempfile
from pathlib import Path

from ggufkit.errors import InputError, UsageError


def home_folder() -> Path:
    """Return the user's home folder; where there is none, a folder for temporary files that only this user can read.

    Raises:
        UsageError: there is no home, and somebody else has the other folder.
    """
    try:
        return Path.home()
    except RuntimeError:  # no $HOME, and a user that nobody knows
        folder = Path(tempfile.gettempdir()) / f"ggufkit-of-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.is_symlink() or folder.stat().st_uid != os.getuid():
            raise UsageError(f"there is no home folder, and {folder} is somebody else's", hint="set HOME") from None
        return folder


def expanded(path: str | Path) -> Path:
    """Return a path with `~` and `~user` replaced. Raises InputError where there is no such user."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise InputError(f"{path}: there is no such home folder") from None
