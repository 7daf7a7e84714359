"""What running a model takes: weights, caches, buffers, and whether that fits.

All but two terms are libllama's own figures for this model (`ggufkit.llamacpp.memory`): keys and values of past tokens,
recurrent states, compute and output buffers, the vocabulary in memory. The weights are the file, mapped, plus a second
copy of those that the CPU rearranges for itself. Added is what `ggufkit chat` takes beyond the process that was asked.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from ggufkit.errors import LlamaCppError, MissingDependencyError
from ggufkit.gguf_file.reader import GgufHeader
from ggufkit.gguf_file.tensor_types import TensorType
from ggufkit.llamacpp import memory as libllama
from ggufkit.llamacpp.memory import Answer, Asking, Caches, Matrix, Setting

DEFAULT_CONTEXT = 8192  # tokens, as `ggufkit chat`, or what the model was trained for, if that is less
# What `ggufkit chat` holds more than the process that asks libllama: command line, templates, samplers. Measured by
# scripts/bench-plan on a model of a billion weights.
CHAT_BYTES = 20_000_000
_FOR_THE_SYSTEM = 0.1  # of all memory, which a model should leave to others
_COMPUTED_ONLY = {TensorType.Q8_1, TensorType.Q8_K}
_LOOKED_UP = {"token_embd.weight", "per_layer_token_embd.weight", "position_embd.weight", "token_types.weight"}


class Weight(Protocol):
    """A tensor of a file that is there, or planned."""

    @property
    def name(self) -> str:
        """As in the file."""

    @property
    def shape(self) -> tuple[int, ...]:
        """As ggml has it: columns first."""

    @property
    def to(self) -> TensorType:
        """Its type."""

    @property
    def bytes_after(self) -> int:
        """Its bytes."""


class Fit(StrEnum):
    """Whether a model runs in some memory."""

    YES = "yes"
    TIGHT = "tight"  # only by letting go of parts of the mapped file that are not needed any more
    NO = "no"


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes that running takes. `peak` is what the process holds at most, `needed` what it cannot do without."""

    file: int
    repacked: int  # weights that are held a second time, in the order that the CPU's kernels like
    cache: int
    state: int
    compute: int
    process: int

    @property
    def peak(self) -> int:
        """The largest resident set: everything, the whole mapped file included."""
        return self.file + self.repacked + self.cache + self.state + self.compute + self.process

    @property
    def needed(self) -> int:
        """What must be there at once: of repacked weights the copy only, for the file's pages can be dropped."""
        return self.peak - self.repacked

    def fits(self, available: int) -> Fit:
        """Tell whether that runs in a machine with so much memory, of which a tenth is left to others."""
        usable = available * (1 - _FOR_THE_SYSTEM)
        if self.peak <= usable:
            return Fit.YES
        return Fit.TIGHT if self.needed <= usable else Fit.NO


@dataclass(frozen=True, slots=True)
class MemoryModel:
    """Everything about a model's memory but its weights; `failure` says why libllama could not be asked."""

    answer: Answer | None
    failure: str | None = None

    @property
    def caches(self) -> Caches | None:
        """What the first setting allocates."""
        return self.answer.settings[0] if self.answer else None

    def of(self, file_bytes: int, tensors: Sequence[Weight]) -> Memory | None:
        """Add the weights of a planned file; None where libllama could not be asked."""
        if self.answer is None or self.caches is None or self.caches.failure:
            return None
        repacked = set(self.answer.repacked)
        tied = all(tensor.name != "output.weight" for tensor in tensors)
        return Memory(
            file=file_bytes,
            repacked=sum(
                tensor.bytes_after
                for tensor in tensors
                if _is_multiplied(tensor.name, tied=tied) and _matrix(tensor.shape, tensor.to) in repacked
            ),
            cache=self.caches.cache,
            state=self.caches.state,
            compute=self.caches.compute + self.caches.output,
            process=self.answer.process + CHAT_BYTES,
        )


def ask(
    file: Path, headers: Sequence[GgufHeader], settings: Sequence[Setting], asking: Asking | None = None
) -> MemoryModel:
    """Ask libllama about a model, of which `file` (for a split one, the first) may have holes instead of weights.

    A failure is part of the answer, for the sizes are worth showing without it. `asking` is as that of
    `llamacpp.memory.ask`.
    """
    shapes = {tensor.shape for header in headers for tensor in header.tensors if 2 <= len(tensor.shape) <= 3}
    types = [kind for kind in TensorType if kind.is_quantized and kind not in _COMPUTED_ONLY]
    matrices = sorted({_matrix(shape, kind) for shape in shapes for kind in types if not shape[0] % kind.block_size})
    try:
        answer = libllama.ask(file, settings, matrices, asking)
    except (LlamaCppError, MissingDependencyError) as error:
        return MemoryModel(None, f"{error}")
    return MemoryModel(answer, answer.settings[0].failure)


def _matrix(shape: tuple[int, ...], kind: TensorType) -> Matrix:
    return Matrix(int(kind), shape[0], shape[1] if len(shape) > 1 else 1, shape[2] if len(shape) > 2 else 1)


def _is_multiplied(name: str, *, tied: bool) -> bool:
    """Tell whether a weight is a factor of products; embeddings are looked up, row by row."""
    return name not in _LOOKED_UP or (tied and name == "token_embd.weight")
