"""Stored scales times a constant: what a library keeps of its scales is not always the scale itself."""

from dataclasses import dataclass

import numpy as np

from ggufkit.checkpoints.source_quantization._reading import HELD, to_float32
from ggufkit.checkpoints.tensors import Shape, StoredTensor


@dataclass(frozen=True, slots=True)
class Scaled:
    """A stored tensor of a float type, read as float32 times `factor`, or the reciprocal of its elements."""

    stored: StoredTensor
    factor: float | np.float32 = 1.0
    is_reciprocal: bool = False

    @property
    def name(self) -> str:
        """The stored tensor's."""
        return self.stored.name

    @property
    def dtype(self) -> str:
        """What `read_into` gives."""
        return "F32"

    @property
    def shape(self) -> Shape:
        """The stored tensor's."""
        return self.stored.shape

    @property
    def size(self) -> int:
        """The number of bytes as float32."""
        return self.stored.size // HELD[self.stored.dtype].itemsize * 4

    @property
    def position(self) -> tuple[str, int]:
        """Where the stored tensor lies."""
        return self.stored.position

    def read_into(self, buffer: memoryview, start: int = 0) -> None:
        """Fill `buffer` with float32 from byte `start`, a multiple of four."""
        held = HELD[self.stored.dtype]
        raw = np.empty(len(buffer) // 4, held)
        self.stored.read_into(raw.view(np.uint8).data, start // 4 * held.itemsize)
        values = to_float32(raw, self.stored.dtype)
        with np.errstate(divide="ignore"):  # what becomes infinite is refused as no scale
            scaled = np.float32(self.factor) / values if self.is_reciprocal else values * np.float32(self.factor)
        buffer[:] = scaled.astype("<f4").view(np.uint8).data
