"""Whether llama.cpp can load a model, found out in a process of its own without reading a single weight.

llama.cpp fills in its table of tensors by name and shape, and with `no_alloc` stops there. What it makes of a bad file
may be an abort, so it must not happen in our process.
"""

import re
import sys
from pathlib import Path

from ggufkit.errors import LlamaCppError
from ggufkit.llamacpp.find import find
from ggufkit.llamacpp.run import run

_CHILD = Path(__file__).with_name("_load_child.py")
_REASON = re.compile(r"llama_model_load: error loading model: (.*)|(GGML_ASSERT.*)|(?:error: )(.*)")
_PREFIX = re.compile(r"^(?:error loading model(?: \w+)?: |check_tensor_dims: )+")


def why_not(model: Path) -> str | None:
    """Return llama.cpp's reason for not loading a model; None when it would, or when this build cannot be asked.

    Raises:
        MissingDependencyError: llama.cpp is not built.
    """
    library = find().library("llama")
    lines: list[str] = []
    try:
        run([sys.executable, "-I", "-S", _CHILD, library, model.absolute()], on_line=lines.append)
    except LlamaCppError:
        return parse(lines)
    return None


def parse(lines: list[str]) -> str | None:
    """Find the reason in what llama.cpp printed; None where nothing says that it tried to load a model."""
    for line in lines:
        if found := _REASON.search(line):
            return _PREFIX.sub("", next(group for group in found.groups() if group).strip())
    return "it gives no reason" if any("llama_model_load" in line for line in lines) else None
