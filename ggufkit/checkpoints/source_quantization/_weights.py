"""Weights that are stored quantized, as the conversion sees them: plain float32 tensors that are made while read."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from gguf import GGMLQuantizationType
from numpy.typing import NDArray

from ggufkit.checkpoints.tensors import Shape, StoredTensor

Array: TypeAlias = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Blocks:
    """The source's own integers and scales in the blocks of a GGUF type: the same weights, nothing rounded again.

    `encode` gives rows i..j of the leading axis as uint8: [j - i, *shape[1:-1], bytes of a row]. `extra` are float32
    tensors that go beside the weight, by what is put in place of `weight` in its name (NVFP4: `scale`): a number
    for each tensor.
    """

    type: GGMLQuantizationType
    encode: Callable[[range], Array]
    extra: Mapping[str, float] = field(default_factory=dict)


def _nothing() -> Blocks | None:
    return None


@dataclass(frozen=True, slots=True, eq=False)
class DequantizedTensor:
    """A weight made of several stored tensors; to everyone else a `StoredTensor` of type F32 and its true shape.

    `parts` are the stored tensors that it consumes, the one with the most bytes first. `decode` gives rows i..j of the
    leading axis in float32, [j - i, *shape[1:]]; it reads no more than it must, keeps nothing, and is called from
    several threads. It is called with multiples of `rows_at_once` rows (but for the last), where the stored
    layout makes fewer wasteful. `blocks` finds out whether a GGUF type holds the very same weights; it may read the
    small parts (scales, zero points), and is asked only when that is wanted.
    """

    name: str
    shape: Shape
    parts: tuple[StoredTensor, ...]
    decode: Callable[[range], Array]
    blocks: Callable[[], Blocks | None] = _nothing
    rows_at_once: int = 1
    keeps: GGMLQuantizationType | None = None  # a 4-bit float format that stays as it is unless F32 is asked for

    @property
    def dtype(self) -> str:
        """What `read_into` gives."""
        return "F32"

    @property
    def size(self) -> int:
        """The bytes of all elements as float32."""
        return 4 * math.prod(self.shape)

    @property
    def stored_size(self) -> int:
        """The bytes on disk, of all parts."""
        return sum(part.size for part in self.parts)

    @property
    def position(self) -> tuple[str, int]:
        """Where the largest part lies."""
        return self.parts[0].position

    def read_into(self, buffer: memoryview, start: int = 0) -> None:
        """Fill `buffer` with float32 from byte `start`, by decoding the rows that it touches.

        Raises:
            CheckpointError: what is stored cannot be read, or is no number.
        """
        if not self.shape:
            buffer[:] = self.decode(range(1)).astype("<f4").tobytes()
            return
        row_bytes = self.size // self.shape[0]
        first, last = start // row_bytes, -(-(start + len(buffer)) // row_bytes)
        with np.errstate(all="ignore"):  # what is not finite is reported where it is encoded
            decoded = np.ascontiguousarray(self.decode(range(first, last)), "<f4").reshape(-1).view(np.uint8)
        skipped = start - first * row_bytes
        buffer[:] = decoded[skipped : skipped + len(buffer)].data


@dataclass(frozen=True, slots=True)
class Undone:
    """What a scheme found: the weights that it undoes, the tensors that nobody needs, and a few words about itself.

    `dropped` maps stored tensors to the reason. Stored tensors that are neither part of a weight nor dropped stay as
    they are. `format` says which variant this is ("block 128 x 128, e4m3"); `remarks` are for people.
    """

    weights: tuple[DequantizedTensor, ...]
    dropped: Mapping[str, str] = field(default_factory=dict)
    format: str = ""
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Scheme:
    """A way of storing quantized weights.

    `name` is what reports call it, `methods` are config.json's names for it (`quant_method`, lower case). `holds` tells
    from the stored tensors alone, names, types and shapes, whether they are its own; it must not take a plain
    checkpoint for one. `undo` gets `quantization_config` (empty where there is none) and all stored tensors, and reads
    no data.
    """

    name: str
    methods: tuple[str, ...]
    holds: Callable[[Mapping[str, StoredTensor]], bool]
    undo: Callable[[Mapping[str, Any], Mapping[str, StoredTensor]], Undone]
