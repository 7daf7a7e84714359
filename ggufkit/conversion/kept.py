"""Weights that keep the integers of whoever quantized them, as blocks of a GGUF type: nothing is rounded again.

What moves whole rows (experts that are stacked, heads whose rows change places) can be done to blocks as well. A weight
for which that does not do, or whose scales no block holds, is dequantized as any other.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from gguf import GGMLQuantizationType

from ggufkit.architectures import ArchSpec, Array, move_rows, tensors
from ggufkit.checkpoints import Blocks, Config, DequantizedTensor
from ggufkit.conversion.tensors import Draft
from ggufkit.gguf_file.writer import block_size

# Architectures whose graphs multiply by the tensors that lie beside a weight (src/models/*.cpp: ffn_up_s and its like);
# the others load them and compute without, which is wrong.
_APPLY_SCALES = frozenset(
    {
        *("cohere2", "cohere2moe", "gemma4", "hy_v3", "llama", "mistral3"),
        *("qwen3", "qwen35", "qwen35moe", "qwen3moe", "qwen3next"),
    }
)
# The weights that may have such a tensor (src/llama-model.cpp: load_tensors).
_SCALED = frozenset(
    {
        *("attn_q", "attn_k", "attn_v", "attn_output", "attn_qkv", "attn_gate"),
        *("ffn_gate", "ffn_down", "ffn_up", "ffn_gate_shexp", "ffn_down_shexp", "ffn_up_shexp"),
        *("ffn_gate_exps", "ffn_down_exps", "ffn_up_exps", "ssm_in", "ssm_out", "ssm_alpha", "ssm_beta"),
    }
)


class Keep(StrEnum):
    """Which weights stay in the blocks of their source."""

    NONE = "none"  # all are dequantized
    FLOATS = "floats"  # MXFP4 and NVFP4, to which a GGUF file holds nothing better but F32
    ALL = "all"  # whatever fits into blocks


@dataclass(frozen=True, slots=True)
class Kept:
    """The blocks of a step's sources, one for each source, all of one type."""

    type: GGMLQuantizationType
    blocks: tuple[Blocks, ...]

    def extra(self) -> dict[str, Array]:
        """Give what lies beside the weight: the end of its name, and a number for each source, float32."""
        return {
            name: np.array([blocks.extra[name] for blocks in self.blocks], np.float32) for name in self.blocks[0].extra
        }


def kept(draft: Draft, config: Config, spec: ArchSpec, keep: Keep) -> Kept | None:
    """Find the blocks that a step's targets can take over from its sources; None when there are none.

    Raises:
        CheckpointError: what is stored beside the weights cannot be read, or is no number.
    """
    sources = [source for source in draft.sources if isinstance(source, DequantizedTensor)]
    if keep is Keep.NONE or len(sources) != len(draft.sources) or not _are_matrices(draft, spec):
        return None
    if keep is Keep.FLOATS and any(source.keeps is None for source in sources):
        return None
    probes: Sequence[Array] = [np.empty((*source.shape[:-1], 1), np.uint8) for source in sources]
    if move_rows(draft.op, probes, [source.shape for source in sources], config) is None:
        return None
    with np.errstate(all="ignore"):  # what is not finite does not fit
        found = [source.blocks() for source in sources]
    blocks = tuple(one for one in found if one is not None)
    if len(blocks) != len(found) or len({(one.type, *one.extra) for one in blocks}) != 1:
        return None
    if any(shape[-1] % block_size(blocks[0].type)[0] for _, shape in draft.targets):
        return None
    if blocks[0].extra and not _applies_scales(draft, spec.name):
        return None
    return Kept(blocks[0].type, blocks)


def _are_matrices(draft: Draft, spec: ArchSpec) -> bool:
    return all(
        len(shape) > 1 and name.endswith(".weight") and tensors.bare(name) not in {*tensors.ALWAYS_F32, *spec.types}
        for name, shape in draft.targets
    )


def _applies_scales(draft: Draft, architecture: str) -> bool:
    """Tell whether llama.cpp multiplies by what lies beside this weight: one number a tensor, or one an expert."""
    if architecture not in _APPLY_SCALES or len(draft.targets) != 1:
        return False
    name, shape = draft.targets[0]
    return tensors.bare(name) in _SCALED and len(draft.sources) == (shape[0] if len(shape) == 3 else 1)
