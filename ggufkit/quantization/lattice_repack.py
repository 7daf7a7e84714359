"""After llama-quantize: rows that were on a 4-bit lattice already are stored as they were, where they became Q4_0."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ggufkit.gguf_file.tensor_types import TensorType
from ggufkit.llamacpp import ggml
from ggufkit.quantization.lattice import pack_rows
from ggufkit.quantization.plan import QuantizationPlan
from ggufkit.quantization.stored_rows import StoredRows, is_plain, rewrite


def repack(plan: QuantizationPlan, written: Sequence[Path]) -> set[str]:
    """Look at the source of every Q4_0 tensor of these files; return the names of those that were changed.

    Raises:
        OSError: a file cannot be read or written.
    """
    library = ggml.load()
    wanted = {tensor.name: tensor for tensor in plan.tensors if tensor.to is TensorType.Q4_0 and is_plain(tensor)}
    if library is None or not wanted:
        return set()
    return rewrite(library, plan, written, wanted, _packed)


def _packed(rows: StoredRows) -> NDArray[np.uint8] | None:
    found, packed = pack_rows(rows.values)
    if not len(packed):
        return None
    encoded = rows.encoded.copy()
    encoded[found] = packed
    return encoded
