"""How far a quantized block may lie from the weights that it was made of.

Measured with ggml's own quantizers (of the llama.cpp that vendor/llama.cpp/pin.toml names) on 256 rows of 1,024 values,
without an importance matrix, with an even and with a very uneven one, from nine distributions: normal, Laplace,
Student's t with 3 degrees of freedom, uniform, one-sided, shifted by three deviations, channels that differ by e^1.5,
rare spikes, and nine zeros in ten.
`scripts/measure-quantization-errors` prints the figures again.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from ggufkit.gguf_file.tensor_types import TensorType


@dataclass(frozen=True, slots=True)
class Bound:
    """What is known about one type.

    `typical`: the relative RMS error of a whole tensor of normal weights, sqrt(sum (y - x)^2 / sum x^2).
    `worst_block`: the largest RMS error of one block that was measured, as a share of the block's largest |x|;
    `worst_weighted`: the same with an importance matrix, by which some weights hardly count.
    `scale_group`: how many neighbours share one scale, where each then takes the nearest of its values; 0 where ggml
    chooses several values together, from a lattice.
    """

    typical: float
    worst_block: float
    worst_weighted: float
    scale_group: int = 0

    def limit(self, *, weighted: bool) -> float:
        """The RMS error of a block, as a share of its largest |x|, beyond which it cannot be right."""
        return 2 * (self.worst_weighted if weighted else self.worst_block)


BOUNDS: Mapping[TensorType, Bound] = {
    TensorType.Q8_0: Bound(0.005, 0.003, 0.003, 32),
    TensorType.Q4_0: Bound(0.086, 0.072, 0.230, 32),
    TensorType.Q4_1: Bound(0.078, 0.079, 0.232, 32),
    TensorType.Q5_0: Bound(0.043, 0.038, 0.144, 32),
    TensorType.Q5_1: Bound(0.038, 0.039, 0.191, 32),
    TensorType.Q2_K: Bound(0.295, 0.163, 0.251, 16),
    TensorType.Q3_K: Bound(0.151, 0.091, 0.128, 16),
    TensorType.Q4_K: Bound(0.071, 0.038, 0.092, 32),
    TensorType.Q5_K: Bound(0.036, 0.019, 0.060, 32),
    TensorType.Q6_K: Bound(0.018, 0.012, 0.031, 16),
    TensorType.IQ4_NL: Bound(0.076, 0.062, 0.244, 32),
    TensorType.IQ4_XS: Bound(0.077, 0.045, 0.100, 32),
    TensorType.IQ3_S: Bound(0.166, 0.289, 0.289),
    TensorType.IQ3_XXS: Bound(0.226, 0.174, 0.258),
    TensorType.IQ2_S: Bound(0.277, 0.179, 0.356),
    TensorType.IQ2_XS: Bound(0.348, 0.262, 0.386),
    TensorType.IQ2_XXS: Bound(0.390, 0.265, 0.405),
    TensorType.IQ1_M: Bound(0.524, 0.362, 0.517),
    TensorType.IQ1_S: Bound(0.545, 0.340, 0.421),
    TensorType.TQ1_0: Bound(0.808, 0.401, 0.401, 256),
    TensorType.TQ2_0: Bound(0.808, 0.401, 0.401, 256),
    TensorType.MXFP4: Bound(0.115, 0.134, 0.134, 32),
    TensorType.NVFP4: Bound(0.095, 0.107, 0.107, 16),
    TensorType.Q1_0: Bound(0.600, 0.329, 0.329, 128),
    TensorType.Q2_0: Bound(0.717, 0.408, 0.408, 64),
}

# A tensor that has nothing to do with the weights is off by 1.41; the coarsest type, on the worst weights, by 0.99.
LARGEST_RELATIVE_ERROR = 1.1
