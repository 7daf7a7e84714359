"""Cohere 2 with experts."""

from recipes._experts import WHOLE_NEXTN, fuse, predicting
from recipes._recipe import Recipe, decoder
from recipes.llama import OLD_CONFIG


def moe(**changes):
    sizes = {"num_experts": 4, "num_experts_per_tok": 2, "intermediate_size": 32, "num_hidden_layers": 4}
    return decoder(**{**sizes, "head_dim": 16, **changes})


NO_DENSE = {
    "cohere2moe.feed_forward_length": "prefix_dense_intermediate_size is null: llama.cpp's converter writes none"
}
RECIPES = {
    "cohere2moe": Recipe("Cohere2MoeForCausalLM", moe(sliding_window=8), explained=NO_DENSE),
    "cohere2moe-prefix": Recipe(
        "Cohere2MoeForCausalLM",
        moe(
            sliding_window=64,
            first_k_dense_replace=1,
            prefix_dense_intermediate_size=96,
            num_shared_experts=2,
            expert_selection_fn="sigmoid",
            tie_word_embeddings=False,
        ),
        dtype="F32",
    ),
    "cohere2moe-rms": Recipe(
        "Cohere2MoeForCausalLM",
        moe(sliding_window=8, rms_norm_eps=1e-5, num_shared_experts=1, norm_topk_prob=False),
        explained={**NO_DENSE, "cohere2moe.expert_weights_norm": "a softmax of the chosen is always normalized"},
    ),
    "cohere2moe-sigmoid": Recipe(
        "Cohere2MoeForCausalLM",
        moe(
            sliding_window=8,
            expert_selection_fn="sigmoid",
            norm_topk_prob=False,
            first_k_dense_replace=2,
            prefix_dense_intermediate_size=80,
            prefix_dense_sliding_window_pattern=4,
            rope_theta=50000.0,
            logit_scale=0.25,
        ),
        alter=fuse(),
        no_golden="llama.cpp's converter does not know fused experts here",
    ),
    "cohere2moe-predicting": Recipe(
        "Cohere2MoeForCausalLM",
        moe(sliding_window=8, num_shared_experts=1),
        extra_config={"num_nextn_predict_layers": 1},
        alter=predicting(3, 4, **WHOLE_NEXTN),
        explained=NO_DENSE,
        warns=("kept 1 block of",),
    ),
    "cohere2moe-old-config": Recipe(
        "Cohere2MoeForCausalLM",
        moe(sliding_window=8, rope_theta=20000.0),
        extra_config={**OLD_CONFIG, "layer_types": None, "mlp_layer_types": None, "sliding_window_pattern": 4},
        explained=NO_DENSE,
    ),
}
