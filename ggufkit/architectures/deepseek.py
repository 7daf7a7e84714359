"""DeepSeek V2 and V3: latent attention (MLA) stored for absorption; routed and shared experts."""

from collections.abc import Iterable

from ggufkit.architectures._blocks import (
    COMMON_DEFAULTS,
    DECODER,
    EMBEDDINGS,
    EXPERTS,
    GATED_MLP,
    LAYERS,
    PRE_NORMS,
    SHARED_EXPERTS,
    gating_function,
    require_activation,
    require_experts,
    routed_experts,
)
from ggufkit.architectures._head_ops import SplitKvB
from ggufkit.architectures._rope import rope
from ggufkit.architectures._sizes import Config
from ggufkit.architectures._spec import ArchSpec, MetadataTable, Vocabulary, blocks, maybe, to
from ggufkit.errors import CheckpointError

MLA = blocks(
    LAYERS,
    {
        "self_attn.q_proj": "attn_q?",  # V2-Lite has no query LoRA
        "self_attn.q_a_proj": "attn_q_a?",
        "self_attn.q_a_layernorm": "attn_q_a_norm?",
        "self_attn.q_b_proj": "attn_q_b?",
        "self_attn.kv_a_proj_with_mqa": "attn_kv_a_mqa",
        "self_attn.kv_a_layernorm": "attn_kv_a_norm",
        "self_attn.kv_b_proj": to("attn_k_b", "attn_v_b", op=SplitKvB()),
        "self_attn.o_proj": "attn_output",
        "mlp.gate.e_score_correction_bias": "exp_probs_b.bias?",
    },
)
MLA_SIZES: MetadataTable = {
    "attention.head_count_kv": lambda c: 1,  # noqa: ARG005 - MLA runs as multi-query attention over the latent
    "attention.q_lora_rank": maybe("q_lora_rank"),
    "attention.kv_lora_rank": "kv_lora_rank",
    "attention.key_length": lambda c: c["kv_lora_rank"] + c["qk_rope_head_dim"],
    "attention.value_length": "kv_lora_rank",
    "attention.key_length_mla": lambda c: c["qk_nope_head_dim"] + c["qk_rope_head_dim"],
    "attention.value_length_mla": "v_head_dim",
    "rope.dimension_count": "qk_rope_head_dim",
    "rope.scaling.yarn_log_multiplier": lambda c: (
        0.1 * scale if (scale := rope(c).get("mscale_all_dim")) is not None else None
    ),
}


def _gating(config: Config) -> int | None:
    """Read scoring_func. transformers saves none: its V3 always takes the sigmoid, llama.cpp without a key softmax."""
    v3 = config["architectures"][0] == "DeepseekV3ForCausalLM"
    return gating_function({"scoring_func": "sigmoid"} if v3 and config.get("scoring_func") is None else config)


EXPERT_SIZES: MetadataTable = {
    "expert_gating_func": _gating,
    "vocab_size": "vocab_size",
    "leading_dense_block_count": "first_k_dense_replace",
    "expert_feed_forward_length": "moe_intermediate_size",
    "expert_shared_count": lambda c: c.get("n_shared_experts", 0),
    "expert_weights_scale": maybe("routed_scaling_factor"),
    "expert_weights_norm": lambda c: c.get("norm_topk_prob") or None,
}
ROUTED_EXPERTS = routed_experts("mlp", gate="gate_proj", up="up_proj", down="down_proj")


def remarks(config: Config) -> Iterable[str]:
    """Refuse what llama.cpp does not load: another activation, a sparse pattern, no query LoRA where it wants one."""
    require_activation(config, "silu")
    require_experts(config)
    if (frequency := config.get("moe_layer_freq", 1)) != 1:
        raise CheckpointError(f"config.json: moe_layer_freq is {frequency}; llama.cpp knows only 1")
    if (groups := config.get("n_group") or 1) > 1:
        if config["n_routed_experts"] % groups:
            raise CheckpointError(f"config.json: n_group ({groups}) does not divide n_routed_experts")
        if config.get("topk_method", "noaux_tc") != "noaux_tc":
            yield (
                f"llama.cpp chooses among the {groups} groups of experts by the two best of each, "
                f"this model by {config['topk_method']}: its answers differ from the original's"
            )
    layers = config["num_hidden_layers"]
    lite = layers in (26, 27) or (layers, config["vocab_size"]) == (48, 128256)  # llama.cpp: src/models/deepseek2.cpp
    if config.get("q_lora_rank") is None and not lite:
        raise CheckpointError(
            f"config.json has no q_lora_rank: llama.cpp loads such a DeepSeek with 26, 27 or 48 layers, not {layers}"
        )


DEEPSEEK2 = ArchSpec(
    name="deepseek2",
    hf_architectures=("DeepseekV2ForCausalLM", "DeepseekV3ForCausalLM"),
    metadata=(DECODER, EXPERTS, MLA_SIZES, EXPERT_SIZES),
    tensors=(EMBEDDINGS, PRE_NORMS, MLA, GATED_MLP, SHARED_EXPERTS, ROUTED_EXPERTS),
    either=(("attn_q", "attn_q_b"),),
    kinds=lambda config, block: "dense" if block < config["first_k_dense_replace"] else "sparse",
    shapes={"attn_q": "heads*nope+heads*rope hidden", "attn_output": "hidden heads*v_head_dim"},
    defaults={
        "deepseek_v2": {
            **COMMON_DEFAULTS,
            "max_position_embeddings": 2048,
            "first_k_dense_replace": 0,
            "kv_lora_rank": 512,
            "n_shared_experts": 2,
            "topk_method": "greedy",
        },
        "deepseek_v3": {
            **COMMON_DEFAULTS,
            "max_position_embeddings": 4096,
            "first_k_dense_replace": 3,
            "kv_lora_rank": 512,
            "num_experts_per_tok": 8,
            "n_shared_experts": 1,
            "n_group": 8,
            "topk_group": 4,
            "norm_topk_prob": True,
            "routed_scaling_factor": 2.5,
        },
    },
    vocabulary=Vocabulary.BYTE_LEVEL,
    remarks=remarks,
)

SPECS = (DEEPSEEK2,)
