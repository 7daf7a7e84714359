"""AFMoE."""

from recipes._experts import fuse
from recipes._recipe import Recipe, decoder
from recipes.llama import OLD_CONFIG


def moe(**changes):
    sizes = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "num_hidden_layers": 4}
    return decoder(**{**sizes, "head_dim": 16, "mup_enabled": True, **changes})


RELEASED = {"route_norm": True, "score_func": "sigmoid"}
RESAVED = {
    "afmoe.expert_weights_norm": "transformers always normalizes, and saves no route_norm",
    "afmoe.expert_gating_func": "transformers always takes the sigmoid, and saves no score_func",
}
RECIPES = {
    "afmoe": Recipe("AfmoeForCausalLM", moe(sliding_window=8), extra_config=RELEASED),
    "afmoe-resaved": Recipe(
        "AfmoeForCausalLM",
        moe(
            head_dim=32,
            sliding_window=64,
            num_shared_experts=1,
            num_dense_layers=2,
            route_scale=2.5,
            tie_word_embeddings=True,
            num_hidden_layers=5,
        ),
        explained=RESAVED,
        dtype="F32",
    ),
    "afmoe-unscaled": Recipe(
        "AfmoeForCausalLM",
        moe(sliding_window=8, mup_enabled=False, num_dense_layers=0, num_experts=8),
        explained=RESAVED,
        alter=fuse(),
        warns=("mup_enabled",),
        no_golden="llama.cpp's converter does not know fused experts here",
        no_logits="llama.cpp always scales the embeddings",
    ),
    "afmoe-old-config": Recipe(
        "AfmoeForCausalLM",
        moe(sliding_window=8),
        extra_config={**OLD_CONFIG, **RELEASED, "layer_types": None, "n_group": 1, "topk_group": 1},
    ),
}
