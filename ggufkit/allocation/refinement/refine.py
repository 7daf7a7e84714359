"""From types to refined weights: a copy of the model whose weights lie on the grids of their types already.

llama-quantize finds those grids again, so the file is made from the copy in the ordinary way, with the same size.
"""

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ggufkit.allocation.choices import Types
from ggufkit.allocation.chunks import chunks_wanted
from ggufkit.allocation.measuring import copy_file
from ggufkit.allocation.model import Model
from ggufkit.allocation.refinement.child import DONE, LOOKED_UP, READ, RefiningRequest
from ggufkit.allocation.refinement.learning_text import MOST_CHUNKS, learning_text, most_chunks
from ggufkit.allocation.refinement.readings import tokens_read_in_order
from ggufkit.allocation.sensitivity import Costs
from ggufkit.allocation.weights import rows_of
from ggufkit.evaluation.child_process import ask
from ggufkit.evaluation.likelihood.passes import Running
from ggufkit.evaluation.likelihood.texts import Chunks
from ggufkit.gguf_file.tensor_types import TensorType
from ggufkit.llamacpp import cpu
from ggufkit.progress import Progress
from ggufkit.quantization.options import QuantizeOptions

_LEAST_MEMORY = 1 << 28  # bytes of moments: the text is read once for all matrices whose moments fit
_IN_ORDER = 50_000_000  # weights; the text is read once for each place in the model, which larger ones take hours for
# NumPy's threads and ggml's wait for each other by spinning: with one of NumPy's, all is 2.7 times as fast.
_ALONE = {"OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
_PLACES = 4 / 7  # for each matrix: several read the same inputs
_CHILD = "ggufkit.allocation.refinement.child"
# What feedback leaves of a type's loss: the geometric means over ten matrices of two small models, on text kept aside.
_LEFT_OF = {
    "Q2_K": 0.36,
    "Q3_K": 0.29,
    "Q4_K": 0.34,
    "Q5_K": 0.32,
    "Q6_K": 0.29,
    "Q4_0": 0.26,
    "Q4_1": 0.31,
    "Q5_0": 0.26,
    "Q5_1": 0.31,
    "Q8_0": 0.24,
    "IQ2_XXS": 0.29,
    "IQ2_XS": 0.30,
    "IQ2_S": 0.29,
    "IQ3_XXS": 0.27,
    "IQ3_S": 0.26,
    "IQ4_XS": 0.29,
    "IQ4_NL": 0.28,
}
_LEFT_OF_A_MODEL = 1.5  # times that, about: what earlier matrices get wrong, and other text, come on top
_LEFT_OF_OTHERS = 0.95  # types on whose values it cannot move


@dataclass(frozen=True, slots=True)
class RefinedTensor:
    """What became of a matrix: a tensor, or an expert of one. Losses are per held-out token, in units of its own.

    `left` is the share of its own rounding's loss that remains: losses also count what it gets wrong from others. Where
    it was left as it was, `reason` says why, or the loss did not drop.
    """

    tensor: str
    accepted: bool
    before: float | None = None
    after: float | None = None
    reason: str | None = None
    left: float = 1.0


@dataclass(frozen=True, slots=True)
class RefinedModel:
    """A copy of the model with refined weights, which lives as long as the `with` block; `path` is its first file."""

    path: Path
    tensors: tuple[RefinedTensor, ...]

    @property
    def accepted(self) -> int:
        """How many tensors were refined."""
        return sum(tensor.accepted for tensor in self.tensors)


def is_in_order(weights: int) -> bool:
    """Whether a model of so many weights is refined in order."""
    return weights <= _IN_ORDER


def tokens_to_learn_from(weights: int, matrices: int, length: int) -> int:
    """Return how many tokens a model reads to be refined, at most, where chunks have `length`."""
    tokens = most_chunks(length) * length
    if not is_in_order(weights):
        return tokens
    return tokens_read_in_order(weights, round(matrices * _PLACES), tokens)


def tokens_of_its_own(weights: int, length: int) -> int:
    """Return how many tokens a model writes to be refined by, at most."""
    return chunks_wanted(MOST_CHUNKS, length) // 2 * length if is_in_order(weights) else 0


@contextlib.contextmanager
def refined_model(
    model: Model,
    types: Types,
    chunks: Chunks,
    options: QuantizeOptions,
    running: Running,
    folder: Path,
    progress: Progress,
    outputs: Mapping[str, Path] | None = None,
) -> Iterator[RefinedModel]:
    """Refine a model for the types that it will get, by the inputs that its matrices have on these chunks.

    `outputs` are files that `output_moments` has written.

    Raises:
        OutputError: there is no room for the copy.
        LlamaCppError: llama.cpp failed, or died.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sources = [header.path for header in model.headers]
    copies = [folder / path.name for path in sources]
    results = folder / "refined.jsonl"
    try:
        for source, copy in zip(sources, copies, strict=True):
            copy_file(source, copy)
        results.unlink(missing_ok=True)
        text = learning_text(chunks, model.headers[0])
        text.tokens.astype("<i4").tofile(folder / "calibration.i32")
        request = RefiningRequest(
            sources=tuple(str(path.absolute()) for path in sources),
            copies=tuple(str(path.absolute()) for path in copies),
            tokens=str((folder / "calibration.i32").absolute()),
            chunk_tokens=chunks.length,
            chunks=len(text.tokens),
            in_disorder=text.in_disorder,
            types={name: kind.name for name, kind in types.items()},
            results=str(results.absolute()),
            importance=str(options.imatrix.absolute()) if options.imatrix else "",
            include_weights=options.include_weights,
            exclude_weights=options.exclude_weights,
            threads=running.threads or 0,
            memory=max(_LEAST_MEMORY, cpu.available_memory() // 2),
            in_order=is_in_order(model.weights),
            outputs={name: str(path.absolute()) for name, path in (outputs or {}).items()},
        )
        path = folder / "refine.json"
        request.write(path)
        tensors = [tensor for header in model.headers for tensor in header.tensors if tensor.name in types]
        total, done, read = sum(rows_of(tensor)[2] for tensor in tensors), [0], [0]

        def on_line(line: str) -> None:
            if line.startswith(READ):
                read[0] += 1
                progress("Reading calibration text", read[0] % len(text.tokens), len(text.tokens), "steps")
            elif line.startswith(DONE):
                done[0] += 1
                progress("Refining matrices", done[0], total, "steps")

        ask(_CHILD, path, str(model.source), on_line, environment=_ALONE if request.in_order else None)
        lines = [json.loads(line) for line in results.read_text().splitlines()]
        yield RefinedModel(
            copies[0],
            tuple(
                RefinedTensor(**{field: value for field, value in line.items() if field != "seconds"}) for line in lines
            ),
        )
    finally:
        for copy in copies:
            copy.unlink(missing_ok=True)


def costs_when_refined(model: Model, costs: Costs, own: Mapping[str, float] | None = None) -> Costs:
    """Say what types will cost when their weights are refined.

    `own` are factors of tensors of which more, or less, is left than usual. Rows that are only looked up gain where a
    model is refined in order.
    """
    factors = own or {}
    as_it_is = () if model.is_tied or is_in_order(model.weights) else (LOOKED_UP,)
    return {
        name: {
            kind: cost if name in as_it_is else cost * left_of(kind) * factors.get(name, 1.0)
            for kind, cost in each.items()
        }
        for name, each in costs.items()
    }


def left_of(kind: TensorType) -> float:
    """What refining usually leaves of a type's loss."""
    if not kind.is_quantized:
        return 1.0
    return _LEFT_OF_A_MODEL * _LEFT_OF[kind.name] if kind.name in _LEFT_OF else _LEFT_OF_OTHERS
