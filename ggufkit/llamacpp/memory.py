"""Asking libllama what memory a model will take, without giving it any: exact for every architecture that it knows.

llama.cpp can load a model for the sake of its sizes alone (`no_alloc`): it reads the header, lays out caches and
compute graphs, and allocates nothing. That is done in a child process, for it aborts on what it does not like:
`python -m ggufkit.llamacpp.memory` answers each line of its stdin with a line, both JSON. A child of somebody else,
which has other things to do as well, can answer with `prepare` and `main`.
"""

import contextlib
import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ggufkit.errors import GgufkitError, LlamaCppError
from ggufkit.llamacpp import binding
from ggufkit.llamacpp.attendant import ENDED, Attendant
from ggufkit.llamacpp.ggml_functions import ggml_functions, repacked_buffer_type
from ggufkit.llamacpp.native import CACHE_TYPES, FLASH_ATTENTION, log_excerpt
from ggufkit.peak_memory import forget_peak, peak_memory

# Hands a request to a child that waits already, and returns the lines that it wrote. Raises LlamaCppError.
Asking = Callable[[str], Sequence[str]]

_MIB = 2**20
_WITHOUT_MMAP = 0  # llama.h, LLAMA_LOAD_MODE_NONE


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
    return Attendant([sys.executable, "-P", "-m", "ggufkit.llamacpp.memory"])


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


_CACHE = re.compile(r"^llama_kv_cache\w*: size = +([\d.]+) MiB")
_STATE = re.compile(r"^llama_memory_recurrent\w*: size = +([\d.]+) MiB|state = .*, size = +([\d.]+) MiB$")
_COMPUTE = re.compile(r"^\w+: +\S+ compute buffer size = +([\d.]+) MiB")
_OUTPUT = re.compile(r"^\w+: +\S+ +output buffer size = +([\d.]+) MiB")


def parse(setting: Setting, lines: Iterable[str]) -> Caches:
    """Read what libllama logged while it laid out a context."""
    found = dict.fromkeys((_CACHE, _STATE, _COMPUTE, _OUTPUT), 0.0)
    for line in lines:
        for pattern in found:
            if match := pattern.search(line):
                found[pattern] += float(match[1] or match[match.lastindex or 1])
    sizes = [round(mebibytes * _MIB) for mebibytes in found.values()]
    return Caches(setting, cache=sizes[0], state=sizes[1], compute=sizes[2], output=sizes[3])


def _is_repacked(ggml: Any, matrix: Matrix) -> bool:
    return repacked_buffer_type(ggml, matrix.type, matrix.columns, matrix.rows, matrix.experts) is not None


_prepared: list[int] = []  # what the process held before anything else was loaded


def prepare() -> None:
    """In a child that has other things to do as well: load llama.cpp, and remember what it takes, before all else."""
    with contextlib.suppress(GgufkitError):  # who asks will be told
        binding.load_declarations().llama_backend_init()
    _prepared[:] = [peak_memory()]


def main() -> None:
    """In such a child: answer the request that lies in the file which the argument names."""
    _reply(Path(sys.argv[1]).read_text())


def _attend() -> None:
    """Answer every line of stdin until it ends."""
    prepare()
    _prepared.clear()  # nothing else will be loaded
    for line in sys.stdin:
        _reply(line)
        sys.stdout.write(f"{ENDED} 0\n")
        sys.stdout.flush()


def _reply(request: str) -> None:
    try:
        answer = _answer(json.loads(request))
    except GgufkitError as error:
        answer = {"failure": str(error)}
    sys.stdout.write(f"{json.dumps(answer)}\n")
    sys.stdout.flush()


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    lib: Any = binding.load_declarations()
    lib.llama_backend_init()
    if _prepared:
        forget_peak()
    not_its_own = peak_memory() - _prepared[0] if _prepared else 0
    parameters = lib.llama_model_default_params()
    parameters.no_alloc = True
    parameters.load_mode = _WITHOUT_MMAP
    parameters.n_gpu_layers = 0
    model = lib.llama_model_load_from_file(request["model"].encode(), parameters)
    if not model:
        return {"failure": log_excerpt(0)}
    ggml = ggml_functions(lib)
    settings = [_lay_out(lib, model, Setting(**setting)) for setting in request["settings"]]
    training_context = lib.llama_model_n_ctx_train(model)
    lib.llama_model_free(model)
    return {
        "training_context": training_context,
        "settings": [asdict(caches) for caches in settings],
        "repacked": [matrix for matrix in request["matrices"] if _is_repacked(ggml, Matrix(**matrix))],
        "process": peak_memory() - not_its_own,
    }


def _lay_out(lib: Any, model: Any, setting: Setting) -> Caches:
    parameters = lib.llama_context_default_params()
    parameters.n_ctx = setting.context_size
    parameters.swa_full = False  # as our engine and llama.cpp's programs have it; the library's own default is not
    parameters.n_batch = setting.batch_size
    parameters.n_ubatch = setting.micro_batch_size
    parameters.n_seq_max = parameters.n_outputs_max = parameters.n_outputs_max_per_seq = 1
    parameters.flash_attn_type = FLASH_ATTENTION[setting.flash_attention]
    parameters.type_k = CACHE_TYPES[setting.cache_type_k]
    parameters.type_v = CACHE_TYPES[setting.cache_type_v]
    since = binding.log_position()
    context = lib.llama_init_from_model(model, parameters)
    if not context:
        return Caches(setting, 0, 0, 0, 0, failure=log_excerpt(since))
    caches = parse(setting, binding.log_lines(since))
    lib.llama_free(context)
    return caches


if __name__ == "__main__":
    _attend()
