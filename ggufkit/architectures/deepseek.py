"""DeepSeek V2 and V3, GLM 4.7 Lite: latent attention (MLA) stored for absorption; routed and shared experts."""

from collections.abc import Iterable
from dataclasses import replace

from ggufkit.architectures._blocks import (
    COMMON_DEFAULTS,
    DECODER,
    EMBEDDINGS,
    EXPERTS,
    GATED_MLP,
    LAYERS,
    PRE_NORMS,
    SHARED_EXPERTS,
    inner_norms_differ,
    require_activation,
    require_experts,
)
from ggufkit.architectures._experts import MLP_EXPERTS, NEXTN, dense_first, groups_divide, leading_dense
from ggufkit.architectures._head_ops import SplitKvB
from ggufkit.architectures._rope import latent_yarn
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
    "rope.scaling.attn_factor": lambda c: latent_yarn(c)[0],
    "rope.scaling.yarn_log_multiplier": lambda c: latent_yarn(c)[1],
}


EXPERT_SIZES: MetadataTable = {
    "vocab_size": "vocab_size",
    "leading_dense_block_count": leading_dense,
    "expert_feed_forward_length": "moe_intermediate_size",
    "expert_shared_count": lambda c: c.get("n_shared_experts", 0),
    "expert_weights_scale": maybe("routed_scaling_factor"),
    "expert_weights_norm": lambda c: c.get("norm_topk_prob") or None,
    "nextn_predict_layers": lambda c: c["predicted"] or None,
}


def remarks(config: Config) -> Iterable[str]:
    """Refuse what llama.cpp does not load: another activation, a sparse pattern, no query LoRA where it wants one."""
    require_activation(config, "silu")
    require_experts(config)
    if (frequency := config.get("moe_layer_freq", 1)) != 1:
        raise CheckpointError(f"config.json: moe_layer_freq is {frequency}; llama.cpp knows only 1")
    groups_divide(config)
    yield from inner_norms_differ(config, "latent queries and keys")
    if (groups := config.get("n_group") or 1) > 1 and config.get("topk_method", "noaux_tc") != "noaux_tc":
        yield (
            f"llama.cpp chooses among the {groups} groups of experts by the two best of each, "
            f"this model by {config['topk_method']}: its answers differ from the original's"
        )
    if config.get("norm_topk_prob") and config.get("topk_method", "noaux_tc") != "noaux_tc":
        yield "llama.cpp both normalizes and scales the weights of the chosen experts, this model only does one of it"
    if not config.get("rope_interleave", True):
        yield "llama.cpp ropes neighbouring rows, this model (rope_interleave) halves: its answers differ"
    layers = config["num_hidden_layers"]
    lite = layers in (26, 27) or (layers, config["vocab_size"]) == (48, 128256)  # llama.cpp: src/models/deepseek2.cpp
    if (config.get("q_lora_rank") is None) != lite:
        raise CheckpointError(
            f"config.json: q_lora_rank is {config.get('q_lora_rank')} with {layers} layers; "
            "llama.cpp takes a model of 26, 27 or 48 layers for one without query LoRA"
        )


_V3 = {
    **COMMON_DEFAULTS,
    "scoring_func": "sigmoid",
    "kv_lora_rank": 512,
    "n_shared_experts": 1,
    "norm_topk_prob": True,
}
_MLA_SHAPES = {"attn_q": "heads*nope+heads*rope hidden", "attn_output": "hidden heads*v_head_dim"}

DEEPSEEK2 = ArchSpec(
    name="deepseek2",
    hf_architectures=("DeepseekV2ForCausalLM", "DeepseekV3ForCausalLM"),
    metadata=(DECODER, EXPERTS, MLA_SIZES, EXPERT_SIZES),
    tensors=(EMBEDDINGS, PRE_NORMS, MLA, GATED_MLP, SHARED_EXPERTS, MLP_EXPERTS),
    either=(("attn_q", "attn_q_b"),),
    kinds=dense_first,
    shapes=_MLA_SHAPES,
    ropes=("yarn",),
    defaults={
        "deepseek_v2": {
            **COMMON_DEFAULTS,
            "max_position_embeddings": 2048,
            "first_k_dense_replace": 0,
            "kv_lora_rank": 512,
            "q_lora_rank": 1536,
            "n_shared_experts": 2,
            "topk_method": "greedy",
            "norm_topk_prob": False,
            "routed_scaling_factor": 1.0,
        },
        "deepseek_v3": {
            **_V3,
            "max_position_embeddings": 4096,
            "q_lora_rank": 1536,
            "first_k_dense_replace": 3,
            "num_experts_per_tok": 8,
            "n_group": 8,
            "topk_group": 4,
            "routed_scaling_factor": 2.5,
        },
    },
    vocabulary=Vocabulary.BYTE_LEVEL,
    remarks=remarks,
)
# llama.cpp keeps its prediction head, unlike DeepSeek's own.
GLM4_MOE_LITE = replace(
    DEEPSEEK2,
    hf_architectures=("Glm4MoeLiteForCausalLM",),
    tensors=(*DEEPSEEK2.tensors, NEXTN),
    predicts="num_nextn_predict_layers",
    vocabulary=Vocabulary.GLM,
    defaults={
        "glm4_moe_lite": {
            **_V3,
            "rms_norm_eps": 1e-5,
            "max_position_embeddings": 202752,
            "moe_intermediate_size": 1536,
            "first_k_dense_replace": 1,
            "num_experts": 64,
            "num_experts_per_tok": 4,
            "n_group": 1,
            "topk_group": 1,
            "q_lora_rank": 768,
            "qk_nope_head_dim": 192,
            "qk_rope_head_dim": 64,
            "v_head_dim": 256,
            "routed_scaling_factor": 1.8,
        }
    },
)

SPECS = (DEEPSEEK2, GLM4_MOE_LITE)
