"""MiniMax M2: experts in every block under DeepSeek V3's router; queries and keys normed across all heads at once."""

from collections.abc import Iterable

from ggufkit.architectures._blocks import (
    ATTENTION,
    DECODER,
    EMBEDDINGS,
    EXPERTS,
    HEAD_NORMS,
    LAYERS,
    PRE_NORMS,
    require_activation,
    require_experts,
)
from ggufkit.architectures._experts import W_EXPERTS
from ggufkit.architectures._rope import rope, rotary_dimensions
from ggufkit.architectures._sizes import Config
from ggufkit.architectures._spec import ArchSpec, MetadataTable, blocks

ROUTER_BIAS = blocks(LAYERS, {"block_sparse_moe.e_score_correction_bias": "exp_probs_b.bias"})
NUMBERS: MetadataTable = {
    "expert_feed_forward_length": "intermediate_size",
    # the older key counts where the rope's own settings are silent
    "rope.dimension_count": lambda c: (
        rotary_dimensions(c) if rope(c)["partial_rotary_factor"] else c.get("rotary_dim") or c["head"]
    ),
}


def remarks(config: Config) -> Iterable[str]:
    """Refuse another activation."""
    require_activation(config, "silu")
    require_experts(config)
    return ()


MINIMAX_M2 = ArchSpec(
    name="minimax-m2",
    hf_architectures=("MiniMaxM2ForCausalLM",),
    metadata=(DECODER, EXPERTS, NUMBERS),
    tensors=(EMBEDDINGS, PRE_NORMS, ATTENTION, HEAD_NORMS, W_EXPERTS, ROUTER_BIAS),
    shapes={"attn_q_norm": "heads*head", "attn_k_norm": "kv_heads*head"},
    ropes=("linear", "yarn", "partial"),
    needs_output=True,
    defaults={
        "minimax_m2": {
            "scoring_func": "sigmoid",
            "rope_theta": 5000000.0,
            "rms_norm_eps": 1e-6,
            "max_position_embeddings": 196608,
            "head_dim": 128,
            "num_key_value_heads": 8,
            "intermediate_size": 1536,
            "num_experts": 256,
            "num_experts_per_tok": 8,
        }
    },
    remarks=remarks,
)

SPECS = (MINIMAX_M2,)
