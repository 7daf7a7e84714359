"""Tensors whose weights lie on a 4-bit lattice already, as quantization-aware training leaves them: Q4_0 keeps these.

Other types of that size lose something of them, and larger ones cost bytes for nothing, so for such a tensor Q4_0 is
among the types to choose from. What it costs is measured like everything else.
"""

import os
from collections.abc import Collection, Sequence

import numpy as np

from ggufkit.allocation.weights import PLAIN, read_bytes, row_bytes, to_float32
from ggufkit.gguf_file.reader import GgufHeader
from ggufkit.gguf_file.tensor_types import TensorType
from ggufkit.quantization.direct import library
from ggufkit.quantization.lattice import BLOCK, pack_rows

_ROWS = 8  # of a tensor, evenly over all
_LEAST_SHARE = 0.5  # of these
_NOTHING = 1e-3  # what rounding to bfloat16 and float16 leaves, of the error of a type that has no lattice for it


def on_lattice(headers: Sequence[GgufHeader], names: Collection[str]) -> frozenset[str]:
    """Look at some rows of each of these tensors; name those on a lattice. Holes, where weights will be, are on none.

    Raises:
        GgufFileError: a file has become shorter.
    """
    found = set()
    for header in headers:
        asked = [each for each in header.tensors if each.name in names and each.type in PLAIN]
        descriptor = os.open(header.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            for tensor in asked:
                columns = tensor.shape[0]
                if columns % BLOCK or len(tensor.shape) < 2:
                    continue
                size, rows = row_bytes(tensor.type, columns), tensor.elements // columns
                places = sorted({number * rows // _ROWS for number in range(_ROWS)})
                stored = np.concatenate([read_bytes(descriptor, header, tensor, at * size, size) for at in places])
                values = to_float32(library(), stored, tensor.type)
                if pack_rows(values.reshape(len(places), columns))[0].mean() >= _LEAST_SHARE:
                    found.add(tensor.name)
        finally:
            os.close(descriptor)
    return frozenset(found)


def is_kept(kind: TensorType, error: float, other: float) -> bool:
    """Tell whether a tensor is on a lattice that a type keeps, by its relative errors in it and in another type."""
    return kind is TensorType.Q4_0 and error <= _NOTHING * other
