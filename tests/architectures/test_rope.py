"""Tables of rotary embeddings that are computed while converting: the same on every processor."""

import math
import os
import subprocess
import sys

import numpy as np

from ggufkit.architectures._rope import llama3_frequency_factors
from ggufkit.checkpoints import Config

_SIZE, _THETA, _FACTOR = 64, 1_000_000.0, 16.0  # with these two kernels of NumPy differ where it shows
_SCALING = {
    "rope_type": "llama3",
    "factor": _FACTOR,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
_CONFIG = {
    "model_type": "llama",
    "hidden_size": 4 * _SIZE,
    "num_attention_heads": 4,
    "rope_theta": _THETA,
    "rope_scaling": _SCALING,
}
_SHOW = f"""
from ggufkit.architectures._rope import llama3_frequency_factors
from ggufkit.checkpoints import Config
print(llama3_frequency_factors(Config({_CONFIG}))["rope_freqs.weight"].tobytes().hex())
"""


def test_llama_3s_factors_are_those_of_the_formula() -> None:
    """As `_compute_llama3_parameters` of transformers says, here in float64."""
    found = llama3_frequency_factors(Config(_CONFIG))["rope_freqs.weight"]
    expected = []
    for pair in range(_SIZE // 2):
        wavelength = 2 * math.pi * _THETA ** (2 * pair / _SIZE)
        smooth = min(1.0, max(0.0, (8192 / wavelength - 1.0) / (4.0 - 1.0)))
        expected.append(1 / ((1 - smooth) / _FACTOR + smooth))
    assert np.allclose(found, expected, rtol=1e-5)
    assert (found[0], found[-1]) == (1.0, _FACTOR)


def test_numpys_kernels_for_this_processor_do_not_show() -> None:
    """Its float32 powers differ in the last bit with AVX-512; names that it does not know only make it warn."""
    without = {**os.environ, "NPY_DISABLE_CPU_FEATURES": "X86_V4 AVX512F AVX512_SKX AVX512_ICL AVX512_SPR"}
    plain, reduced = (
        subprocess.run([sys.executable, "-c", _SHOW], env=env, capture_output=True, text=True, check=True).stdout
        for env in (dict(os.environ), without)
    )
    assert plain == reduced
    assert len(plain.strip()) == _SIZE // 2 * 4 * 2
