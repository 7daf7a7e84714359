"""Which llama.cpp this version of ggufkit is made for: the content of `vendor/llama.cpp/pin.toml`."""

import functools
import tomllib
from dataclasses import dataclass
from pathlib import Path

_IN_CHECKOUT = Path("vendor") / "llama.cpp" / "pin.toml"
_IN_WHEEL = Path(__file__).parent / "vendor" / "pin.toml"


@dataclass(frozen=True, slots=True)
class Pin:
    """The pinned source distribution, the llama.cpp inside it, and what is built from it."""

    package: str
    version: str
    sha256: str
    commit: str
    folder: str
    cmake: str
    tools: tuple[str, ...]
    libraries: tuple[str, ...]


def checkout() -> Path | None:
    """Return the root of the git checkout (or unpacked sdist) that this code runs from; None for an installed wheel."""
    root = Path(__file__).parents[2]
    return root if (root / _IN_CHECKOUT).is_file() else None


@functools.cache
def pin() -> Pin:
    """Read the pin, from the checkout or from inside the wheel."""
    root = checkout()
    return parse((root / _IN_CHECKOUT if root else _IN_WHEEL).read_text(encoding="utf-8"))


def parse(text: str) -> Pin:
    """Parse the content of `pin.toml`."""
    document = tomllib.loads(text)
    package, llama_cpp = document["package"], document["llama_cpp"]
    return Pin(
        package=package["name"],
        version=package["version"],
        sha256=package["sha256"],
        commit=llama_cpp["commit"],
        folder=llama_cpp["folder"],
        cmake=llama_cpp["cmake"],
        tools=tuple(llama_cpp["tools"]),
        libraries=tuple(llama_cpp["libraries"]),
    )
