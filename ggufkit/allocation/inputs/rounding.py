"""Inputs as the CPU multiplies with them: ggml-quants.c, quantize_row_q8_K_ref and quantize_row_q8_0_ref."""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

BLOCKS = (32, 256)  # values that share a scale: Q8_0 (and Q8_1, which rounds alike), Q8_K


def rounded(inputs: Floats, block: int) -> Floats:
    """Return inputs, float32 [n, n_in], as they are after they were stored in 8 bits in blocks of 32 or 256."""
    values = np.ascontiguousarray(inputs, np.float32).reshape(-1, block)
    if block == 256:
        place = np.abs(values).argmax(axis=1)
        largest = np.take_along_axis(values, place[:, None], axis=1)
        scale = np.divide(-127.0, largest, out=np.zeros_like(largest), where=largest != 0)
        levels = np.minimum(np.rint(values * scale), 127)
        back = np.divide(1.0, scale, out=np.zeros_like(scale), where=scale != 0)
    else:
        largest = np.abs(values).max(axis=1, keepdims=True)
        back = (largest / 127).astype(np.float16).astype(np.float32)
        levels = np.rint(values * np.divide(127.0, largest, out=np.zeros_like(largest), where=largest != 0))
    found: Floats = (levels * back).astype(np.float32).reshape(inputs.shape)
    return found
