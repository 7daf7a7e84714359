"""DeepSeek V2 and V3: latent attention (MLA) stored for absorption; routed and shared experts."""

from collections.abc import Iterable

from ggufkit.architectures._blocks import (
    COMMON_DEFAULTS,
    DECODER,
    EMBEDDING_SHAPES,
    EMBEDDINGS,
    ENDS_REQUIRED,
    EXPERTS,
    EXPERTS_REQUIRED,
    GATED_MLP,
    MLP_REQUIRED,
    MLP_SHAPES,
    PRE_NORMS,
    SHARED_EXPERTS,
    expert_shapes,
    gating_function,
    require_activation,
    require_experts,
    routed_experts,
)
from ggufkit.architectures._ops import SplitKvB
from ggufkit.architectures._rope import rope
from ggufkit.architectures._sizes import Config
from ggufkit.architectures._spec import ArchSpec, MetadataTable, ShapeTable, TensorTable, Vocabulary, maybe, to
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
MLA_SHAPES: ShapeTable = {
    "blk.{b}.attn_q.weight": lambda c: (c["num_attention_heads"] * _query_size(c), c["hidden_size"]),
    "blk.{b}.attn_q_a.weight": lambda c: (c["q_lora_rank"], c["hidden_size"]),
    "blk.{b}.attn_q_a_norm.weight": lambda c: (c["q_lora_rank"],),
    "blk.{b}.attn_q_b.weight": lambda c: (c["num_attention_heads"] * _query_size(c), c["q_lora_rank"]),
    "blk.{b}.attn_kv_a_mqa.weight": lambda c: (c["kv_lora_rank"] + c["qk_rope_head_dim"], c["hidden_size"]),
    "blk.{b}.attn_kv_a_norm.weight": lambda c: (c["kv_lora_rank"],),
    "blk.{b}.attn_k_b.weight": lambda c: (c["num_attention_heads"], c["kv_lora_rank"], c["qk_nope_head_dim"]),
    "blk.{b}.attn_v_b.weight": lambda c: (c["num_attention_heads"], c["v_head_dim"], c["kv_lora_rank"]),
    "blk.{b}.attn_output.weight": lambda c: (c["hidden_size"], c["num_attention_heads"] * c["v_head_dim"]),
}
SHARED_SHAPES: ShapeTable = {
    "blk.{b}.exp_probs_b.bias": lambda c: (c["n_routed_experts"],),
    "blk.{b}.ffn_gate_shexp.weight": lambda c: (_shared_width(c), c["hidden_size"]),
    "blk.{b}.ffn_up_shexp.weight": lambda c: (_shared_width(c), c["hidden_size"]),
    "blk.{b}.ffn_down_shexp.weight": lambda c: (c["hidden_size"], _shared_width(c)),
}


def _query_size(config: Config) -> int:
    return int(config["qk_nope_head_dim"] + config["qk_rope_head_dim"])


def _shared_width(config: Config) -> int:
    return int(config["n_shared_experts"] * config["moe_intermediate_size"])


def remarks(config: Config) -> Iterable[str]:
    """Refuse what llama.cpp does not load: another activation, a sparse pattern, no query LoRA where it wants one."""
    require_activation(config, "silu")
    require_experts(config, "n_routed_experts")
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
    required=(
        *ENDS_REQUIRED,
        *((f"blk.{{b}}.{part}.weight",) for part in ("attn_norm", "attn_kv_a_mqa", "attn_kv_a_norm", "attn_k_b")),
        *((f"blk.{{b}}.{part}.weight",) for part in ("attn_v_b", "attn_output", "ffn_norm")),
        ("blk.{b}.attn_q.weight", "blk.{b}.attn_q_b.weight"),
    ),
    dense=MLP_REQUIRED,
    sparse=(*EXPERTS_REQUIRED, *((f"blk.{{b}}.ffn_{part}_shexp.weight",) for part in ("gate", "up", "down"))),
    dense_blocks=lambda config: config["first_k_dense_replace"],
    shapes=(
        EMBEDDING_SHAPES,
        MLA_SHAPES,
        MLP_SHAPES,
        SHARED_SHAPES,
        expert_shapes("n_routed_experts", "moe_intermediate_size"),
    ),
    defaults={
        "DeepseekV2ForCausalLM": {
            **COMMON_DEFAULTS,
            "max_position_embeddings": 2048,
            "first_k_dense_replace": 0,
            "kv_lora_rank": 512,
            "n_shared_experts": 2,
            "topk_method": "greedy",
        },
        "DeepseekV3ForCausalLM": {
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
    drop_blocks_with="model.layers.{b}.eh_proj.weight",  # the multi-token-prediction head
    expert_count="n_routed_experts",
    vocabulary=Vocabulary.BYTE_LEVEL,
    remarks=remarks,
)

SPECS = (DEEPSEEK2,)
