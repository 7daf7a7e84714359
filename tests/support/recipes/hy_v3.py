"""Hunyuan 3."""

from recipes._experts import NEXTN, WHOLE_NEXTN, fuse, predicting, rename
from recipes._recipe import Recipe, decoder
from recipes.llama import OLD_CONFIG


def moe(**changes):
    sizes = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "head_dim": 16}
    return decoder(**{**sizes, **changes})


TRANSFORMERS = rename(
    ("mlp.router.gate", "mlp.gate"),
    ("mlp.expert_bias", "mlp.e_score_correction_bias"),
    ("shared_mlp", "shared_experts"),
)
RECIPES = {
    "hy-v3": Recipe("HYV3ForCausalLM", moe()),
    "hy-v3-wide": Recipe(
        "HYV3ForCausalLM",
        moe(
            head_dim=32,
            num_shared_experts=2,
            mlp_layer_types=["dense", "dense", "sparse"],
            router_scaling_factor=1.0,
            tie_word_embeddings=True,
            num_key_value_heads=1,
        ),
        dtype="F32",
    ),
    "hy-v3-in-memory": Recipe(
        "HYV3ForCausalLM",
        moe(num_experts=8),
        alter=lambda shapes: TRANSFORMERS(fuse()(shapes)),
        no_golden="llama.cpp's converter does not know these names",
    ),
    "hy-v3-predicting": Recipe(
        "HYV3ForCausalLM",
        moe(),
        extra_config={"num_nextn_predict_layers": 1},
        alter=predicting(2, 3, **NEXTN, final_layernorm=(64,)),
        warns=("kept 1 block of",),
    ),
    "hy-v3-predicting-alone": Recipe(
        "HYV3ForCausalLM",
        moe(num_hidden_layers=2),
        extra_config={"num_nextn_predict_layers": 1},
        alter=predicting(1, 2, **WHOLE_NEXTN),
        warns=("kept 1 block of",),
    ),
    "hy-v3-old-config": Recipe(
        "HYV3ForCausalLM",
        moe(num_hidden_layers=2),
        extra_config={
            **OLD_CONFIG,
            "mlp_layer_types": None,
            "first_k_dense_replace": 1,
            "route_norm": True,
            "moe_router_use_sigmoid": True,
        },
    ),
}
