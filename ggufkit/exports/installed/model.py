"""A model that lies on this machine, and what removing it took away."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path


class Where(StrEnum):
    """Who keeps it."""

    HUB = "hub"  # Hugging Face's cache
    OLLAMA = "ollama"
    LMSTUDIO = "lmstudio"
    GGUFKIT = "ggufkit"  # folders of ggufkit's own, or that it was told of


@dataclass(frozen=True, slots=True)
class InstalledModel:
    """A model. `name` is what `rm` takes, and for one of the hub what every command takes.

    `path` is what opens it: a GGUF file or a checkpoint folder; `files` all its files, `size` their bytes. `problem`
    says why it would not open.
    """

    where: Where
    name: str
    kind: str  # "gguf", "checkpoint", "adapter", "mmproj", or "unfinished"
    type: str  # Q4_K_M, bfloat16 …; empty where nothing tells
    path: Path | None
    files: tuple[Path, ...]
    size: int
    modified: float  # seconds since 1970
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Removal:
    """What went: the model's name, the files, and the bytes that are free now."""

    name: str
    files: tuple[Path, ...]
    freed: int
