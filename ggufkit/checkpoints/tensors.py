"""What a stored tensor is, whatever the file format: a name, a type, a shape, and bytes that can be read in pieces."""

import re
from typing import Protocol

Shape = tuple[int, ...]

# Names of tensors that everyone who needs them computes from the config: never weights.
BUFFERS = re.compile(r"(?:^|\.)(?:rotary_emb\.(?:\w*_)?inv_freq|(?:attention|attn)\.(?:masked_)?bias)$")

# safetensors' names of element types -> bytes per element (sub-byte types are refused where they are met)
ELEMENT_SIZES = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "F8_E8M0": 1,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U64": 8,
    "U32": 4,
    "U16": 2,
    "U8": 1,
    "BOOL": 1,
    "C64": 8,
}


class StoredTensor(Protocol):
    """A tensor in a checkpoint. `shape` is row-major, outermost axis first, as torch prints it."""

    @property
    def name(self) -> str:
        """The name in the checkpoint."""

    @property
    def dtype(self) -> str:
        """The element type, a key of ELEMENT_SIZES."""

    @property
    def shape(self) -> Shape:
        """The shape, outermost axis first."""

    @property
    def size(self) -> int:
        """The number of bytes."""

    @property
    def position(self) -> tuple[str, int]:
        """File and offset: reading in this order reads the disk in one direction."""

    def read_into(self, buffer: memoryview, start: int = 0) -> None:
        """Fill `buffer` with the tensor's little-endian bytes from byte `start`; CheckpointError when they are gone."""
