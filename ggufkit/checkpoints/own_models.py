"""ggufkit's own folders of models: one to put models into, and those that `pull --local-dir` was told to use.

`$GGUFKIT_MODELS`, else `models` in ggufkit's data folder; the others are remembered in `model-folders.json` beside it.
"""

import json
import os
from pathlib import Path

from ggufkit.errors import OutputError
from ggufkit.files import write_atomically
from ggufkit.homes import expanded, home_folder

_MOST = 1000
_KEY = "folders"


def models_folder() -> Path:
    """Return the folder for models; it need not exist."""
    if named := os.environ.get("GGUFKIT_MODELS"):
        return expanded(named).absolute()
    return _data_folder() / "models"


def folders() -> list[Path]:
    """List the folders that exist, the one for models first."""
    found = [models_folder(), *_remembered()]
    return list(dict.fromkeys(folder for folder in found if folder.is_dir()))


def remember(folder: Path) -> None:
    """Remember a folder that models were written to. Where that cannot be written down, it is not."""
    known = [path for path in _remembered() if path.is_dir()]
    wanted = [*dict.fromkeys([folder.absolute(), *known])][:_MOST]
    path = _list()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, json.dumps({_KEY: [str(each) for each in wanted]}, indent=1).encode())
    except (OSError, OutputError, UnicodeEncodeError):
        return


def _remembered() -> list[Path]:
    try:
        listed = json.loads(_list().read_text(encoding="utf-8"))[_KEY]
        return [Path(text) for text in listed if isinstance(text, str)]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []


def _list() -> Path:
    return _data_folder() / "model-folders.json"


def _data_folder() -> Path:
    named = Path(os.environ.get("XDG_DATA_HOME", ""))
    return (named if named.is_absolute() else home_folder() / ".local" / "share") / "ggufkit"
