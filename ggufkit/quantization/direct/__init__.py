"""Quantizing by libggml in our own process, straight into the final files, however many at once: the direct engine.

What it writes equals, byte for byte, what llama-quantize would have written from the same source. The source is a GGUF
model, or a conversion under way whose tensors exist only a piece at a time: it is read once for all outputs, nothing
but pieces is ever in memory, and a run that was interrupted goes on where it was.
"""

import contextlib
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

from ggufkit.errors import MissingDependencyError, UsageError
from ggufkit.files import PartialFile
from ggufkit.gguf_file.reader import GgufHeader
from ggufkit.llamacpp import ggml
from ggufkit.quantization.direct.layout import lay_out
from ggufkit.quantization.direct.output import Output
from ggufkit.quantization.direct.sink import STORED, Sink
from ggufkit.quantization.direct.source import stream_of
from ggufkit.quantization.importance import load_importance
from ggufkit.quantization.plan import QuantizationPlan
from ggufkit.quantization.scale_search import in_own_threads
from ggufkit.quantization.types import COPY

__all__ = ["Sink", "identity_of", "library", "quantize_stream", "refuse_what_only_the_binary_does", "stream_of"]


def refuse_what_only_the_binary_does(plan: QuantizationPlan) -> None:
    """Refuse a plan that the direct engine cannot carry out.

    Raises:
        UsageError: a tensor would have to be decoded from a quantized type, or what is asked for is llama-quantize's.
        MissingDependencyError: libggml is not built.
    """
    library()
    only_the_binary = {
        "--keep-split": plan.options.keep_split,
        "--prune-layers": bool(plan.options.prune_layers),
        COPY.name: plan.type is COPY,
    }
    for what, asked in only_the_binary.items():
        if asked:
            raise UsageError(f"only llama-quantize knows {what}", hint="--engine binary")
    for tensor in plan.tensors:
        if tensor.was not in STORED and tensor.was is not tensor.to:
            raise UsageError(
                f"the direct engine takes F32, F16 and BF16 tensors, and {tensor.name!r} is {tensor.was.name}",
                hint="--engine binary",
            )


def identity_of(files: Sequence[Path]) -> str:
    """Say which weights these files hold: another text, other weights (or the same, in other files)."""
    digest = hashlib.sha256()
    for path in files:
        status = path.stat()
        digest.update(
            f"{status.st_dev} {status.st_ino} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}\n".encode()
        )
    return digest.hexdigest()


def library() -> ggml.Ggml:
    """Load libggml. Raises MissingDependencyError when it is not built, or not as one library."""
    found = ggml.load()
    if found is None:
        raise MissingDependencyError("libggml is not built", hint="ggufkit setup")
    return found


def quantize_stream(
    source: GgufHeader,
    identity: str,
    jobs: Sequence[tuple[QuantizationPlan, PartialFile]],
    stream: Callable[[Sink], None],
) -> list[set[str]]:
    """Write the output of each plan from the pieces that `stream` gives to its sink, which is thread-safe.

    `source` needs a header only: a sparse file will do. `identity` says which weights will come; where it is that of
    an interrupted run, and so is the plan, what that run wrote is checked and kept. Returns for each plan the tensors
    whose weights were on a 4-bit lattice, and are stored as they were.

    Raises:
        GgufFileError: what was quantized is not finite.
        InputError: the importance matrix cannot be used.
        OSError: a write failed; and whatever `stream` raises.
    """
    with contextlib.ExitStack() as stack:
        outputs = []
        for plan, file in jobs:
            options = plan.options
            matrix = load_importance(options.imatrix) if options.imatrix else None
            if matrix is not None:
                matrix = matrix.only(options.include_weights, options.exclude_weights)
            output = Output(file, plan, lay_out(source, plan, matrix), matrix, identity)
            stack.callback(output.close)
            outputs.append(output)
        if any(plan.options.search_scales for plan, _ in jobs):
            stack.enter_context(in_own_threads())
        stream(Sink(library(), {tensor.name: tensor for tensor in jobs[0][0].tensors}, outputs))
        return [output.on_lattice for output in outputs]
