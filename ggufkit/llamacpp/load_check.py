"""Whether llama.cpp can load a model and compute with it, found out in a process of its own.

llama.cpp fills in its table of tensors by name and shape, and with `no_alloc` stops there, or lays out a context too.
What it makes of a bad file may be an abort, so it must not happen in our process.
"""

import re
import sys
from pathlib import Path
from typing import Literal

from ggufkit.errors import LlamaCppError
from ggufkit.llamacpp import find, remembered
from ggufkit.llamacpp.run import DiedError, run
from ggufkit.llamacpp.supervision import is_expendable, stopped

_CHILD = Path(__file__).with_name("_load_child.py")
_REASON = re.compile(r"llama_model_load: error loading model: (.*)|(GGML_ASSERT.*)|(?:error: )(.*)")
_PREFIX = re.compile(r"^(?:error loading model(?: \w+)?: |check_tensor_dims: )+")
_SMALL = 64 << 20  # bytes: a model that is loaded and computes a token in less than a tenth of a second

How = Literal["load", "plan", "run"]


def why_not(model: Path) -> str | None:
    """Return llama.cpp's reason for not loading a model; None when it would, or when this build cannot be asked.

    Raises:
        MissingDependencyError: llama.cpp is not built.
    """
    lines: list[str] = []
    try:
        _try(model, "load", lines)
    except LlamaCppError:
        return parse(lines)
    return None


def check_survivable(model: Path, *, how: How | None = None, again: bool = False) -> None:
    """Try a model in a child before our process loads it, unless it was tried before or ours may die as well.

    A small model computes a token there; of a large one a context is laid out, which costs no memory. What llama.cpp
    merely refuses passes: whoever loads it will be told why. `again` tries it even if it is known.

    Raises:
        LlamaCppError: llama.cpp died on it.
        MissingDependencyError: llama.cpp is not built.
    """
    if not again and (is_expendable() or remembered.is_known(model)):
        return
    if how is None:
        how = "run" if model.stat().st_size <= _SMALL else "plan"
    lines: list[str] = []
    try:
        _try(model, how, lines)
    except DiedError as death:
        raise stopped(death.number, lines, model) from None
    except LlamaCppError:
        return
    remembered.remember(model)


def refusal(model: Path, how: How) -> str | None:
    """Return llama.cpp's reason for not running a model; None when it does.

    Raises:
        LlamaCppError: llama.cpp died on it.
        MissingDependencyError: llama.cpp is not built.
    """
    lines: list[str] = []
    try:
        _try(model, how, lines)
    except DiedError as death:
        raise stopped(death.number, lines, model) from None
    except LlamaCppError:
        return parse(lines) or "it gives no reason"
    remembered.remember(model)
    return None


def _try(model: Path, how: How, lines: list[str]) -> None:
    library = find.find().library("llama")
    command: list[str | Path] = [sys.executable, "-I", "-S", _CHILD, library, model.absolute(), how]
    run(command, on_line=lines.append, environment={"GGML_NO_BACKTRACE": "1"})


def parse(lines: list[str]) -> str | None:
    """Find the reason in what llama.cpp printed; None where nothing says that it tried to load a model."""
    for line in lines:
        if found := _REASON.search(line):
            return _PREFIX.sub("", next(group for group in found.groups() if group).strip())
    return "it gives no reason" if any("llama_model_load" in line for line in lines) else None
