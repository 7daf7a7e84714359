"""DeepSeek V2 and V3: latent attention (MLA) stored for absorption; routed and shared experts."""

from collections.abc import Iterable

from ggufkit.architectures._blocks import (
    COMMON_DEFAULTS,
    DECODER,
    EMBEDDING_SHAPES,
    EMBEDDINGS,
    ENDS_REQUIRED,
    EXPERTS,
    GATED_MLP,
    MLP_OR_EXPERTS_REQUIRED,
    MLP_SHAPES,
    PRE_NORMS,
    SHARED_EXPERTS,
    require_activation,
    routed_experts,
)
from ggufkit.architectures._ops import SplitKvB
from ggufkit.architectures._rope import rope
from ggufkit.architectures._sizes import Config
from ggufkit.architectures._spec import ArchSpec, MetadataTable, TensorTable, Vocabulary, maybe, to
from ggufkit.errors import CheckpointError

MLA: TensorTable = {
    "model.layers.{b}.self_attn.q_proj": "blk.{b}.attn_q",  # V2-Lite has no query LoRA
    "model.layers.{b}.self_attn.q_a_proj": "blk.{b}.attn_q_a",
    "model.layers.{b}.self_attn.q_a_layernorm": "blk.{b}.attn_q_a_norm",
    "model.layers.{b}.self_attn.q_b_proj": "blk.{b}.attn_q_b",
    "model.layers.{b}.self_attn.kv_a_proj_with_mqa": "blk.{b}.attn_kv_a_mqa",
    "model.layers.{b}.self_attn.kv_a_layernorm": "blk.{b}.attn_kv_a_norm",
    "model.layers.{b}.self_attn.kv_b_proj": to("blk.{b}.attn_k_b", "blk.{b}.attn_v_b", op=SplitKvB()),
    "model.layers.{b}.self_attn.o_proj": "blk.{b}.attn_output",
    "model.layers.{b}.mlp.gate.e_score_correction_bias": "blk.{b}.exp_probs_b.bias",
}
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
EXPERT_SIZES: MetadataTable = {
    "vocab_size": "vocab_size",
    "leading_dense_block_count": "first_k_dense_replace",
    "expert_feed_forward_length": "moe_intermediate_size",
    "expert_shared_count": lambda c: c.get("n_shared_experts", 0),
    "expert_weights_scale": maybe("routed_scaling_factor"),
    "expert_weights_norm": lambda c: c.get("norm_topk_prob") or None,
}
ROUTED_EXPERTS = routed_experts("mlp", gate="gate_proj", up="up_proj", down="down_proj")


def remarks(config: Config) -> Iterable[str]:
    """Refuse another activation, and a model without query LoRA that llama.cpp does not take for a Lite one."""
    require_activation(config, "silu")
    layers = config["num_hidden_layers"]
    lite = layers in (26, 27) or (layers, config["vocab_size"]) == (48, 128256)  # llama.cpp: src/models/deepseek2.cpp
    if config.get("q_lora_rank") is None and not lite:
        raise CheckpointError(
            f"config.json has no q_lora_rank: llama.cpp loads such a DeepSeek with 26, 27 or 48 layers, not {layers}"
        )
    return ()


DEEPSEEK2 = ArchSpec(
    name="deepseek2",
    hf_architectures=("DeepseekV2ForCausalLM", "DeepseekV3ForCausalLM"),
    metadata=(DECODER, EXPERTS, MLA_SIZES, EXPERT_SIZES),
    tensors=(EMBEDDINGS, PRE_NORMS, MLA, GATED_MLP, SHARED_EXPERTS, ROUTED_EXPERTS),
    required=(
        *ENDS_REQUIRED,
        *((f"blk.{{b}}.{part}.weight",) for part in ("attn_norm", "attn_kv_a_mqa", "attn_kv_a_norm", "attn_k_b")),
        *((f"blk.{{b}}.{part}.weight",) for part in ("attn_v_b", "attn_output", "ffn_norm")),
        ("blk.{b}.attn_q.weight", "blk.{b}.attn_q_b.weight"),
        *MLP_OR_EXPERTS_REQUIRED,
    ),
    shapes=(EMBEDDING_SHAPES, MLP_SHAPES),
    defaults={
        "DeepseekV2ForCausalLM": {
            **COMMON_DEFAULTS,
            "max_position_embeddings": 2048,
            "first_k_dense_replace": 0,
            "kv_lora_rank": 512,
        },
        "DeepseekV3ForCausalLM": {
            **COMMON_DEFAULTS,
            "max_position_embeddings": 4096,
            "first_k_dense_replace": 3,
            "kv_lora_rank": 512,
        },
    },
    drop_blocks_from="num_hidden_layers",  # what follows is the multi-token-prediction head
    expert_count="n_routed_experts",
    vocabulary=Vocabulary.BYTE_LEVEL,
    remarks=remarks,
)

SPECS = (DEEPSEEK2,)
