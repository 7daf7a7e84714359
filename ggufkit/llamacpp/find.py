"""Finding the built llama.cpp: its programs, its libraries and its source tree."""

import enum
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ggufkit.errors import MissingDependencyError
from ggufkit.homes import expanded, home_folder
from ggufkit.llamacpp import pin

VARIABLE = "GGUFKIT_LLAMA_CPP"
STAMP = "build.json"
LIBRARY_SUFFIX = ".dylib" if sys.platform == "darwin" else ".so"


class Origin(enum.Enum):
    """Where a build was found."""

    ENVIRONMENT = f"${VARIABLE}"
    CHECKOUT = "the checkout"
    USER_DATA = "the user's data folder"


@dataclass(frozen=True, slots=True)
class Installation:
    """A built llama.cpp: `bin` holds the programs, `lib` the shared libraries (they may be one folder)."""

    root: Path
    bin: Path
    lib: Path
    origin: Origin

    def tool(self, name: str) -> Path:
        """Return the path of a program. Raises MissingDependencyError when this build lacks it."""
        path = self.bin / name
        if not os.access(path, os.X_OK):
            raise MissingDependencyError(f"{name} is missing from the llama.cpp build in {self.bin}", hint=_hint(self))
        return path

    def library(self, name: str) -> Path:
        """Return the path of a library, named as `ggml-base`. Raises MissingDependencyError when it is not there."""
        path = self.lib / f"lib{name}{LIBRARY_SUFFIX}"
        if not path.exists():
            raise MissingDependencyError(f"{path.name} is missing from the build in {self.lib}", hint=_hint(self))
        return path

    def stamp(self) -> dict[str, Any]:
        """Return what `ggufkit setup` wrote down about this build; empty for a build that the user made."""
        return read_stamp(self.root)


def find() -> Installation:
    """Find the build: `$GGUFKIT_LLAMA_CPP`, then the checkout's `vendor/llama.cpp/dist`, then the user's data folder.

    Raises:
        MissingDependencyError: there is none, or the variable names a folder that holds none.
    """
    if named := os.environ.get(VARIABLE):
        return _named(expanded(named).absolute())
    stale = None
    for home, origin in _homes():
        root = home / "dist"
        if stamp := read_stamp(root):
            if stamp.get("version") == pin.pin().version:
                return Installation(root, root / "bin", root / "lib", origin)
            stale = root
    if stale:
        raise MissingDependencyError(
            f"the llama.cpp in {stale} is not the pinned {pin.pin().version}", hint="ggufkit setup"
        )
    raise MissingDependencyError("llama.cpp is not built yet", hint="ggufkit setup")


def find_source() -> Path:
    """Find llama.cpp's unpacked source tree, which carries its converter.

    Raises:
        MissingDependencyError: there is none.
    """
    if named := os.environ.get(VARIABLE):
        folder = expanded(named).absolute()
        for place in (folder / "source", folder.parent / "source"):
            if (place / "convert_hf_to_gguf.py").is_file():
                return place
    for home, _ in _homes():
        if read_stamp(home / "source").get("version") == pin.pin().version:
            return home / "source"
    raise MissingDependencyError("llama.cpp's source tree is not unpacked yet", hint="ggufkit setup")


def home() -> Path:
    """Return the folder where setup puts `dist/` and `source/`: in the checkout, else in the user's data folder."""
    root = pin.checkout()
    return root / "vendor" / "llama.cpp" if root else _user_home()


def read_stamp(root: Path) -> dict[str, Any]:
    """Return the stamp of a build or source folder: the last file written into it, so without it nothing is whole."""
    try:
        stamp = json.loads((root / STAMP).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def data_folder() -> Path:
    """Return `$XDG_DATA_HOME/ggufkit`."""
    return _xdg("XDG_DATA_HOME", ".local/share") / "ggufkit"


def cache_folder() -> Path:
    """Return `$GGUFKIT_CACHE`, else `$XDG_CACHE_HOME/ggufkit`."""
    if named := os.environ.get("GGUFKIT_CACHE"):
        return expanded(named).absolute()
    return _xdg("XDG_CACHE_HOME", ".cache") / "ggufkit"


def _xdg(variable: str, default: str) -> Path:
    """The XDG specification says that a relative path in these variables is to be ignored."""
    value = Path(os.environ.get(variable, ""))
    return value if value.is_absolute() else home_folder() / default


def _user_home() -> Path:
    return data_folder() / "llama.cpp" / pin.pin().version


def _homes() -> list[tuple[Path, Origin]]:
    root = pin.checkout()
    homes = [(root / "vendor" / "llama.cpp", Origin.CHECKOUT)] if root else []
    return [*homes, (_user_home(), Origin.USER_DATA)]


def _named(folder: Path) -> Installation:
    programs = next((place for place in (folder / "bin", folder) if (place / "llama-quantize").is_file()), None)
    libraries = next(
        (
            place
            for place in (folder / "lib", folder / "lib64", folder / "bin", folder)
            if (place / f"libllama{LIBRARY_SUFFIX}").exists()
        ),
        None,
    )
    if programs is None or libraries is None:
        lacking = "llama-quantize" if programs is None else f"libllama{LIBRARY_SUFFIX}"
        raise MissingDependencyError(
            f"{VARIABLE}={folder} holds no llama.cpp build: no {lacking} there, nor in its bin or lib",
            hint=f"unset {VARIABLE} to use the build that `ggufkit setup` makes",
        )
    return Installation(folder, programs, libraries, Origin.ENVIRONMENT)


def _hint(installation: Installation) -> str:
    if installation.origin is Origin.ENVIRONMENT:
        return f"build it there, or unset {VARIABLE}"
    return "ggufkit setup --force"
