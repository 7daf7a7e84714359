"""Hunyuan 3 (HY V3): Qwen 3's attention under DeepSeek V3's router, without groups."""

from collections.abc import Iterable

from ggufkit.architectures._blocks import (
    ATTENTION,
    DECODER,
    EMBEDDINGS,
    EXPERTS,
    GATED_MLP,
    HEAD_NORMS,
    LAYERS,
    PRE_NORMS,
    SHARED_EXPERTS,
    require_activation,
    require_experts,
)
from ggufkit.architectures._experts import MLP_EXPERTS, NEXTN, dense_first
from ggufkit.architectures._sizes import Config
from ggufkit.architectures._spec import ArchSpec, MetadataTable, blocks

ROUTING: MetadataTable = {
    "expert_feed_forward_length": "moe_intermediate_size",
    "expert_shared_feed_forward_length": "shared_ff",
    "expert_weights_norm": "route_norm",
    "expert_weights_scale": "router_scaling_factor",
    "nextn_predict_layers": lambda c: c["predicted"] or None,
}
# The router and the shared expert have one name in the released checkpoints and another in transformers.
MOE = blocks(
    LAYERS,
    {
        "mlp.router.gate": "ffn_gate_inp",
        "mlp.expert_bias": "exp_probs_b?",
        "mlp.e_score_correction_bias": "exp_probs_b?",
        "mlp.shared_mlp.gate_proj": "ffn_gate_shexp",
        "mlp.shared_mlp.up_proj": "ffn_up_shexp",
        "mlp.shared_mlp.down_proj": "ffn_down_shexp",
        "final_layernorm": "nextn.shared_head_norm?",  # of a block that predicts further tokens
    },
)


def remarks(config: Config) -> Iterable[str]:
    """Refuse another activation."""
    require_activation(config, "silu")
    require_experts(config)
    return ()


HY_V3 = ArchSpec(
    name="hy_v3",
    hf_architectures=("HYV3ForCausalLM",),
    metadata=(DECODER, EXPERTS, ROUTING),
    tensors=(EMBEDDINGS, PRE_NORMS, ATTENTION, HEAD_NORMS, GATED_MLP, MLP_EXPERTS, SHARED_EXPERTS, MOE, NEXTN),
    sizes={"shared_ff": lambda c: c["moe_intermediate_size"] * c["num_shared_experts"]},
    kinds=dense_first,
    predicts="num_nextn_predict_layers",
    defaults={
        "hy_v3": {
            "scoring_func": "sigmoid",
            "rope_theta": 11158840.0,
            "rms_norm_eps": 1e-5,
            "max_position_embeddings": 131072,
            "head_dim": 128,
            "num_key_value_heads": 8,
            "first_k_dense_replace": 1,
            "moe_intermediate_size": 1536,
            "num_experts": 192,
            "num_experts_per_tok": 8,
            "num_shared_experts": 1,
            "route_norm": True,
            "router_scaling_factor": 2.826,
        }
    },
    remarks=remarks,
)

SPECS = (HY_V3,)
