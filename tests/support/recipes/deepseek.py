"""DeepSeek V1, V2, V3, and GLM 4.7 Lite: latent attention and routed experts."""

from recipes._experts import WHOLE_NEXTN, fuse, predicting
from recipes._recipe import VOCABULARY, Recipe, decoder
from recipes.llama import OLD_CONFIG, YARN

DEEPSEEK_YARN = {**YARN, "beta_fast": 32, "beta_slow": 1, "mscale": 1.0, "mscale_all_dim": 1.0}
OLD_YARN = {key: value for key, value in DEEPSEEK_YARN.items() if not key.startswith("rope_")} | {"type": "yarn"}
RELEASED = {"scoring_func": "sigmoid", "topk_method": "noaux_tc"}
NO_SCORING = {"deepseek2.expert_gating_func": "transformers saves no scoring_func; its class always takes the sigmoid"}


EPSILON = "norms latent queries and keys with the model's epsilon of 1e-05"


def mla(**changes):
    sizes = {"kv_lora_rank": 32, "q_lora_rank": 24, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 16}
    experts = {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "n_shared_experts": 1}
    return decoder(**{**sizes, **experts, "num_key_value_heads": 4, **changes})


def lite(**changes):
    return {**mla(**{"first_k_dense_replace": 1, "num_hidden_layers": 27, **changes}), "q_lora_rank": None}


def first(**config):
    """The config.json and the tensors of a DeepSeek V1, which transformers does not build."""
    sizes = {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "n_shared_experts": 2}
    config = {
        **decoder(num_key_value_heads=4),
        **sizes,
        "architectures": ["DeepseekForCausalLM"],
        "model_type": "deepseek",
        "first_k_dense_replace": 1,
        "moe_layer_freq": 1,
        "norm_topk_prob": False,
        "scoring_func": "softmax",
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "rope_scaling": None,
        "tie_word_embeddings": False,
        **config,
    }
    width, inner, one = (config[key] for key in ("hidden_size", "intermediate_size", "moe_intermediate_size"))
    kv = config["num_key_value_heads"] * width // config["num_attention_heads"]
    shapes = {"model.embed_tokens.weight": (VOCABULARY, width), "model.norm.weight": (width,)}
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (VOCABULARY, width)
    for block in range(config["num_hidden_layers"]):
        layer = f"model.layers.{block}"
        shapes |= {f"{layer}.{norm}_layernorm.weight": (width,) for norm in ("input", "post_attention")}
        shapes |= {f"{layer}.self_attn.{part}_proj.weight": (width, width) for part in "qo"}
        shapes |= {f"{layer}.self_attn.{part}_proj.weight": (kv, width) for part in "kv"}
        if config.get("attention_bias"):
            shapes |= {f"{layer}.self_attn.{part}_proj.bias": (width if part == "q" else kv,) for part in "qkv"}
        if block < config["first_k_dense_replace"]:
            widths = {f"{layer}.mlp": inner}
        else:
            shapes[f"{layer}.mlp.gate.weight"] = (4, width)
            widths = {f"{layer}.mlp.experts.{expert}": one for expert in range(4)}
            widths[f"{layer}.mlp.shared_experts"] = one * config["n_shared_experts"]
        for path, rows in widths.items():
            shapes |= {f"{path}.{part}_proj.weight": (rows, width) for part in ("gate", "up")}
            shapes[f"{path}.down_proj.weight"] = (width, rows)
    return {"config": config, "shapes": shapes, "no_logits": "transformers does not build it", "raw_config": True}


RECIPES = {
    "deepseek-v1": Recipe("DeepseekForCausalLM", **first()),
    "deepseek-v1-grouped": Recipe(
        "DeepseekForCausalLM",
        **first(num_key_value_heads=2, first_k_dense_replace=2, n_shared_experts=1, attention_bias=True),
    ),
    "deepseek-v1-tied": Recipe(
        "DeepseekForCausalLM",
        **first(tie_word_embeddings=True, first_k_dense_replace=0, num_hidden_layers=2),
        explained={"output.weight": "llama.cpp does not load this architecture without"},
    ),
    "deepseek-v2": Recipe(
        "DeepseekV2ForCausalLM", mla(first_k_dense_replace=1, topk_method="greedy", routed_scaling_factor=1.0)
    ),
    "deepseek-v2-epsilon": Recipe(
        "DeepseekV2ForCausalLM",
        mla(first_k_dense_replace=1, routed_scaling_factor=1.0, topk_method="greedy", rms_norm_eps=1e-5),
        warns=(EPSILON,),
    ),
    "deepseek-v2-lite": Recipe("DeepseekV2ForCausalLM", lite(routed_scaling_factor=1.5)),
    "deepseek-v2-groups": Recipe(
        "DeepseekV2ForCausalLM",
        mla(
            n_routed_experts=8, topk_method="group_limited_greedy", n_group=4, topk_group=2, routed_scaling_factor=16.0
        ),
        warns=("by group_limited_greedy",),
        no_logits="llama.cpp ranks the groups by their two best, this model by the best",
    ),
    "deepseek-v2-tied": Recipe(
        "DeepseekV2ForCausalLM",
        mla(n_shared_experts=2, first_k_dense_replace=0, tie_word_embeddings=True, rope_parameters=DEEPSEEK_YARN),
        dtype="F32",
    ),
    "deepseek-v3": Recipe(
        "DeepseekV3ForCausalLM",
        mla(first_k_dense_replace=1, n_routed_experts=8, n_group=2, topk_group=1, num_mtp_layers=0),
        extra_config=RELEASED,
    ),
    "deepseek-v3-resaved": Recipe(
        "DeepseekV3ForCausalLM",
        mla(first_k_dense_replace=2, v_head_dim=24, n_group=1, topk_group=1, norm_topk_prob=False),
        alter=predicting(2, 3, **WHOLE_NEXTN),
        explained=NO_SCORING,
        warns=("of multi-token prediction",),
    ),
    "deepseek-v3-yarn": Recipe(
        "DeepseekV3ForCausalLM",
        mla(first_k_dense_replace=1, n_routed_experts=8, n_group=2, topk_group=2, rope_parameters=DEEPSEEK_YARN),
        extra_config=RELEASED,
        explained=dict.fromkeys(
            ("deepseek2.expert_group_count", "deepseek2.expert_group_used_count"), "llama.cpp aborts when all are used"
        ),
        dtype="F32",
    ),
    "deepseek-v3-fused": Recipe(
        "DeepseekV3ForCausalLM",
        mla(first_k_dense_replace=1, n_group=1, topk_group=1, kv_lora_rank=64, qk_rope_head_dim=16),
        extra_config=RELEASED,
        alter=fuse(),
        no_golden="llama.cpp's converter does not know fused experts here",
    ),
    "deepseek-v3-lite": Recipe(
        "DeepseekV3ForCausalLM",
        lite(n_group=1, topk_group=1, tie_word_embeddings=True, num_hidden_layers=26),
        extra_config=RELEASED,
    ),
    "glm4moelite": Recipe(
        "Glm4MoeLiteForCausalLM", mla(), extra_config={**RELEASED, "first_k_dense_replace": 1}, warns=(EPSILON,)
    ),
    "glm4moelite-resaved": Recipe(
        "Glm4MoeLiteForCausalLM",
        mla(n_shared_experts=2, mlp_layer_types=["dense", "dense", "sparse"], norm_topk_prob=False),
        explained={**NO_SCORING, "deepseek2.leading_dense_block_count": "transformers saves mlp_layer_types instead"},
        warns=(EPSILON,),
    ),
    "glm4moelite-predicting": Recipe(
        "Glm4MoeLiteForCausalLM",
        mla(tie_word_embeddings=True),
        extra_config={**RELEASED, "first_k_dense_replace": 1, "num_nextn_predict_layers": 1},
        alter=predicting(2, 3, **WHOLE_NEXTN),
        warns=("kept 1 block of", EPSILON),
    ),
    "deepseek-v3-old-config": Recipe(
        "DeepseekV3ForCausalLM",
        mla(num_hidden_layers=2, first_k_dense_replace=1, n_group=1, topk_group=1),
        extra_config={
            **OLD_CONFIG,
            **RELEASED,
            "rope_scaling": OLD_YARN,
            "moe_layer_freq": 1,
        },
    ),
}
