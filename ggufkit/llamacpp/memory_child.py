"""A process of its own that tells what memory a model will take: libllama's figures.

`python -m ggufkit.llamacpp.memory_child` answers each line of its stdin with a line, both JSON. A child of somebody
else, which has other things to do as well, can answer with `prepare` and `main`.
"""

import contextlib
import json
import re
import sys
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ggufkit.errors import GgufkitError
from ggufkit.llamacpp import binding
from ggufkit.llamacpp.attendant import ENDED
from ggufkit.llamacpp.ggml_functions import ggml_functions, repacked_buffer_type
from ggufkit.llamacpp.memory import Caches, Matrix, Setting
from ggufkit.llamacpp.native import CACHE_TYPES, FLASH_ATTENTION, log_excerpt
from ggufkit.peak_memory import forget_peak, peak_memory

_MIB = 2**20
_WITHOUT_MMAP = 0  # llama.h, LLAMA_LOAD_MODE_NONE

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
