"""LFM 2 with experts."""

from recipes._experts import fuse
from recipes._recipe import Recipe, decoder
from recipes.llama import OLD_CONFIG


def moe(**changes):
    sizes = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "num_hidden_layers": 4}
    return decoder(**{**sizes, "layer_types": ["conv", "full_attention", "conv", "full_attention"], **changes})


RECIPES = {
    "lfm2moe": Recipe("Lfm2MoeForCausalLM", moe()),
    "lfm2moe-attending": Recipe(
        "Lfm2MoeForCausalLM",
        moe(
            num_dense_layers=1,
            conv_L_cache=4,
            num_hidden_layers=3,
            layer_types=["full_attention", "conv", "full_attention"],
            num_key_value_heads=4,
            num_experts=8,
        ),
        dtype="F32",
    ),
    "lfm2moe-untied": Recipe(
        "Lfm2MoeForCausalLM",
        moe(tie_word_embeddings=False, use_expert_bias=False, num_dense_layers=0),
        alter=fuse(gate="w1", down="w2"),
        no_golden="llama.cpp's converter knows neither an output here nor fused experts",
    ),
    "lfm2moe-old-config": Recipe("Lfm2MoeForCausalLM", moe(num_dense_layers=1), extra_config={**OLD_CONFIG}),
}
