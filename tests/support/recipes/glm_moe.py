"""GLM 4.5 and later with experts."""

from recipes._experts import NEXTN, WHOLE_NEXTN, fuse, predicting
from recipes._recipe import Recipe, decoder
from recipes.llama import OLD_CONFIG


def moe(**changes):
    experts = {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "head_dim": 32}
    return decoder(**{**experts, "num_mtp_layers": 0, **changes})


def vision(**text):
    sizes = {"depth": 1, "hidden_size": 32, "intermediate_size": 32, "num_heads": 2, "out_hidden_size": 64}
    text = moe(**text)
    del text["num_mtp_layers"]
    return {"text_config": text, "vision_config": {**sizes, "image_size": 28, "patch_size": 14}}


def solar(**changes):
    config = moe(**changes)
    return {key: value for key, value in config.items() if key not in ("num_mtp_layers", "intermediate_size")}


WHOLE_HEADS = {"glm4moe.rope.dimension_count": "llama.cpp's converter takes half a head where nothing is said"}
MROPE = {"rope_type": "default", "rope_theta": 1e6, "partial_rotary_factor": 0.5, "mrope_section": [4, 2, 2]}
RECIPES = {
    "glm4moe": Recipe("Glm4MoeForCausalLM", moe(use_qk_norm=True)),
    "glm4moe-biased": Recipe(
        "Glm4MoeForCausalLM",
        moe(
            head_dim=16,
            attention_bias=True,
            n_shared_experts=2,
            first_k_dense_replace=0,
            norm_topk_prob=False,
            routed_scaling_factor=2.5,
            rope_parameters={"rope_type": "default", "rope_theta": 1e6, "partial_rotary_factor": 1.0},
        ),
        dtype="F32",
    ),
    "glm4moe-groups": Recipe(
        "Glm4MoeForCausalLM",
        moe(n_routed_experts=8, n_group=2, topk_group=1, first_k_dense_replace=2, tie_word_embeddings=True),
    ),
    "glm4moe-headless": Recipe(
        "Glm4MoeForCausalLM",
        moe(num_mtp_layers=1, num_key_value_heads=1, rms_norm_eps=1e-6),
        alter=fuse(),
        no_golden="llama.cpp's converter does not know fused experts here",
    ),
    "glm4moe-predicting": Recipe(
        "Glm4MoeForCausalLM",
        moe(num_mtp_layers=1, use_qk_norm=True),
        alter=predicting(2, 3, **WHOLE_NEXTN),
        warns=("kept 1 block of",),
    ),
    "glm4moe-predicting-twice": Recipe(
        "Glm4MoeForCausalLM",
        moe(num_mtp_layers=2),
        alter=lambda shapes: predicting(2, 4, **NEXTN)(predicting(2, 3, **NEXTN)(shapes)),
        warns=("kept 2 blocks",),
    ),
    "glm4vmoe": Recipe(
        "Glm4vMoeForConditionalGeneration",
        vision(head_dim=32, rope_parameters=MROPE, attention_bias=True),
        warns=("of visual",),
        weights={"visual": (0.0, 0.05)},
    ),
    "glm4vmoe-fused": Recipe(
        "Glm4vMoeForConditionalGeneration",
        vision(head_dim=16, n_shared_experts=2, rope_parameters={**MROPE, "mrope_section": [2, 1, 1]}),
        alter=fuse(),
        warns=("of visual",),
        no_golden="llama.cpp's converter does not know fused experts here",
    ),
    "glm4moe-old-config": Recipe(
        "Glm4MoeForCausalLM",
        moe(num_hidden_layers=2, attention_bias=True),
        extra_config={**OLD_CONFIG, "partial_rotary_factor": 0.5, "n_routed_experts": 4, "num_nextn_predict_layers": 1},
    ),
    "solar-open": Recipe(
        "SolarOpenForCausalLM",
        solar(rope_parameters={"rope_type": "default", "rope_theta": 1e6, "partial_rotary_factor": 1.0}),
        extra_config={"partial_rotary_factor": 1.0},
        explained=WHOLE_HEADS,
    ),
    "solar-open-wide": Recipe(
        "SolarOpenForCausalLM",
        solar(head_dim=16, n_shared_experts=2, norm_topk_prob=False, routed_scaling_factor=2.5, n_routed_experts=8),
        explained=WHOLE_HEADS,
        alter=fuse(),
        no_golden="llama.cpp's converter does not know fused experts here",
        dtype="F32",
    ),
}
