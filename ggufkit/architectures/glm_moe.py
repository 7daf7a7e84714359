"""GLM 4.5 and later with experts: DeepSeek V3's router, grouped-query attention, half of a head rotated, two norms."""

from collections.abc import Iterable

from ggufkit.architectures._blocks import (
    ATTENTION,
    DECODER,
    EMBEDDINGS,
    EXPERTS,
    GATED_MLP,
    LAYERS,
    OPTIONAL_QKV_BIASES,
    SHARED_EXPERTS,
    require_activation,
    require_experts,
)
from ggufkit.architectures._experts import (
    CORRECTED_ROUTER,
    CORRECTION_BIAS,
    MLP_EXPERTS,
    NEXTN,
    dense_first,
    groups_divide,
)
from ggufkit.architectures._rope import mrope_sections, rotary_dimensions
from ggufkit.architectures._sizes import Config
from ggufkit.architectures._spec import ArchSpec, MetadataTable, Vocabulary, blocks, maybe

NORMS = blocks(
    LAYERS,
    {
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "post_attention_norm",
        "self_attn.q_norm": "attn_q_norm?",
        "self_attn.k_norm": "attn_k_norm?",
    },
)
ROUTING: MetadataTable = {
    "rope.dimension_count": rotary_dimensions,
    "rope.dimension_sections": mrope_sections,
    "expert_shared_count": maybe("n_shared_experts"),
    # Written though it be 0, as long as the config says so.
    "nextn_predict_layers": lambda c: c["predicted"] if c.get("num_nextn_predict_layers") is not None else None,
}
NO_DENSE: MetadataTable = {
    "feed_forward_length": maybe("intermediate_size"),
    "leading_dense_block_count": lambda c: c["first_k_dense_replace"] or None,
}
_DEFAULTS = {
    "scoring_func": "sigmoid",
    "rope_theta": 10000.0,
    "rms_norm_eps": 1e-5,
    "partial_rotary_factor": 0.5,
    "num_key_value_heads": 8,
    "intermediate_size": 10944,
    "moe_intermediate_size": 1408,
    "num_experts_per_tok": 8,
    "num_experts": 128,
    "n_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    "norm_topk_prob": True,
    "routed_scaling_factor": 1.0,
}


def remarks(config: Config) -> Iterable[str]:
    """Refuse another activation, and groups that llama.cpp cannot make."""
    require_activation(config, "silu")
    require_experts(config)
    groups_divide(config)
    return ()


GLM4_MOE = ArchSpec(
    name="glm4moe",
    hf_architectures=("Glm4MoeForCausalLM", "Glm4vMoeForConditionalGeneration"),
    metadata=(DECODER, EXPERTS, CORRECTED_ROUTER, ROUTING),
    tensors=(EMBEDDINGS, NORMS, ATTENTION, GATED_MLP, MLP_EXPERTS, SHARED_EXPERTS, CORRECTION_BIAS, NEXTN),
    biases=OPTIONAL_QKV_BIASES,
    kinds=dense_first,
    ropes=("linear", "yarn", "partial"),
    predicts="num_nextn_predict_layers",
    vocabulary=Vocabulary.GLM,
    defaults={
        "glm4_moe": {**_DEFAULTS, "max_position_embeddings": 131072, "num_nextn_predict_layers": 1},
        "glm4v_moe": {**_DEFAULTS, "max_position_embeddings": 65536},
    },
    remarks=remarks,
)
# The same without dense blocks and with whole heads rotated.
SOLAR_OPEN = ArchSpec(
    name="glm4moe",
    hf_architectures=("SolarOpenForCausalLM",),
    metadata=({**DECODER, **NO_DENSE}, EXPERTS, CORRECTED_ROUTER, ROUTING, NO_DENSE),
    tensors=(EMBEDDINGS, NORMS, ATTENTION, MLP_EXPERTS, SHARED_EXPERTS, CORRECTION_BIAS),
    biases=OPTIONAL_QKV_BIASES,
    ropes=("linear", "yarn", "partial"),
    defaults={
        "solar_open": {
            **{key: value for key, value in _DEFAULTS.items() if key != "intermediate_size"},
            "rope_theta": 1000000.0,
            "partial_rotary_factor": 1.0,
            "first_k_dense_replace": 0,
            "max_position_embeddings": 131072,
            "head_dim": 128,
            "moe_intermediate_size": 1280,
        }
    },
    remarks=remarks,
)

SPECS = (GLM4_MOE, SOLAR_OPEN)
