"""Dots 1."""

from recipes._experts import fuse
from recipes._recipe import Recipe, decoder
from recipes.llama import OLD_CONFIG, YARN


def moe(**changes):
    sizes = {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "first_k_dense_replace": 1}
    return decoder(**{**sizes, "n_shared_experts": 2, "head_dim": 16, "num_key_value_heads": 4, **changes})


NO_SCORING = {"dots1.expert_gating_func": "transformers saves no scoring_func; its class always takes the sigmoid"}
SIGMOID = {"scoring_func": "sigmoid"}
RECIPES = {
    "dots1": Recipe("Dots1ForCausalLM", moe(norm_topk_prob=True, routed_scaling_factor=2.5), extra_config=SIGMOID),
    "dots1-resaved": Recipe(
        "Dots1ForCausalLM",
        moe(
            n_routed_experts=8,
            n_group=2,
            topk_group=1,
            n_shared_experts=1,
            first_k_dense_replace=0,
            attention_bias=True,
        ),
        alter=lambda shapes: {name: shape for name, shape in shapes.items() if not name.endswith("o_proj.bias")},
        explained=NO_SCORING,
        no_logits="llama.cpp has no bias of the attention's output",
        dtype="F32",
    ),
    "dots1-tied": Recipe(
        "Dots1ForCausalLM",
        moe(tie_word_embeddings=True, head_dim=32, rope_parameters=YARN, norm_topk_prob=True),
        extra_config=SIGMOID,
        explained={"output.weight": "llama.cpp does not load this architecture without"},
    ),
    "dots1-window": Recipe(
        "Dots1ForCausalLM",
        moe(layer_types=["sliding_attention", "full_attention", "full_attention"], sliding_window=64),
        extra_config={"scoring_func": "noaux_tc"},
        alter=fuse(),
        warns=("sliding_window of 64",),
        no_golden="llama.cpp's converter knows neither fused experts nor this name of the sigmoid",
    ),
    "dots1-old-config": Recipe(
        "Dots1ForCausalLM",
        moe(num_hidden_layers=2, routed_scaling_factor=2.5),
        extra_config={**OLD_CONFIG, **SIGMOID, "layer_types": None, "sliding_window": None, "moe_layer_freq": 1},
    ),
}
