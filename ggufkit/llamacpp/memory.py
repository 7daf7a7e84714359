"""Asking libllama what memory a model will take, without giving it any: exact for every architecture that it knows.

llama.cpp can load a model for the sake of its sizes alone (`no_alloc`): it reads the header, lays out caches and
compute graphs, and allocates nothing. That is done in a child process, `memory_child`, for it aborts on what it does
not like; who asks has no use for llama.cpp.
"""

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ggufkit.errors import LlamaCppError
from ggufkit.llamacpp.attendant import Attendant

# Hands a request to a child that waits already, and returns the lines that it wrote. Raises LlamaCppError.
Asking = Callable[[str], Sequence[str]]

CHILD = "ggufkit.llamacpp.memory_child"


@dataclass(frozen=True, slots=True)
class Setting:
    """How a model would be run. Cache types and flash attention as `llama_cpp` spells them, in lower case."""

    context_size: int
    cache_type_k: str = "f16"
    cache_type_v: str = "f16"
    flash_attention: str = "auto"
    batch_size: int = 2048
    micro_batch_size: int = 512


@dataclass(frozen=True, slots=True, order=True)
class Matrix:
    """A kind of weight matrix: its ggml type, columns and rows, and how many experts are stacked in it (1: none)."""

    type: int
    columns: int
    rows: int
    experts: int = 1


@dataclass(frozen=True, slots=True)
class Caches:
    """What one setting allocates, in bytes; `cache` to 0.01 MiB for each of its parts, as libllama prints it."""

    setting: Setting
    cache: int  # keys and values of past tokens
    state: int  # what recurrent layers keep instead
    compute: int
    output: int
    failure: str | None = None  # why this setting cannot be


@dataclass(frozen=True, slots=True)
class Answer:
    """What libllama says about a model. `process` is the child's peak memory: Python, libraries, and the vocabulary."""

    training_context: int
    settings: tuple[Caches, ...]
    repacked: tuple[Matrix, ...]  # the kinds of which the CPU keeps a second, rearranged copy
    process: int


def child() -> Attendant:
    """Start the child that answers `ask`: it loads llama.cpp while we find out what there is to ask.

    Raises:
        LlamaCppError: it could not be started.
    """
    # -P: the current folder may hold modules whose names hide the standard library's
    return Attendant([sys.executable, "-P", "-m", CHILD])


def asking_of(attendant: Attendant) -> Asking:
    """Ask a `child` that waits already."""

    def asking(request: str) -> Sequence[str]:
        lines: list[str] = []
        attendant.ask(request, lines.append)
        return lines

    return asking


def ask(model: Path, settings: Sequence[Setting], matrices: Sequence[Matrix], asking: Asking | None = None) -> Answer:
    """Load the header of `model` in a child process and lay out each of `settings`.

    A context size of 0 means the one that the model was trained for. Where a child waits already, it is asked by
    `asking`; only of its first answer `process` is the memory of that model alone.

    Raises:
        LlamaCppError: libllama cannot load such a model, which the message quotes; or there is none.
    """
    if asking is None:
        with child() as attendant:
            return ask(model, settings, matrices, asking_of(attendant))
    request = {
        "model": str(model.absolute()),
        "settings": [asdict(setting) for setting in settings],
        "matrices": [asdict(matrix) for matrix in matrices],
    }
    lines = asking(json.dumps(request))
    try:
        answer = json.loads(next(line for line in reversed(lines) if line.startswith("{")))
    except (ValueError, StopIteration):
        raise LlamaCppError(f"libllama gave no usable answer about {model}: {' '.join(lines[-3:])}") from None
    if failure := answer.get("failure"):
        raise LlamaCppError(f"llama.cpp cannot load such a model: {failure}")
    return Answer(
        training_context=answer["training_context"],
        settings=tuple(Caches(**{**caches, "setting": Setting(**caches["setting"])}) for caches in answer["settings"]),
        repacked=tuple(Matrix(**matrix) for matrix in answer["repacked"]),
        process=answer["process"],
    )
