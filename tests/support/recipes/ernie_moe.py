"""ERNIE 4.5 with experts."""

from recipes._experts import fuse, rename
from recipes._recipe import Recipe, decoder
from recipes.llama import OLD_CONFIG


def moe(**changes):
    return decoder(**{"moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 32, **changes})


WIDTH = {"ernie4_5-moe.expert_shared_feed_forward_length": "llama.cpp's converter divides intermediate_size by heads"}
RECIPES = {
    "ernie-moe": Recipe("Ernie4_5_MoeForCausalLM", moe(), explained=WIDTH),
    "ernie-moe-untied": Recipe(
        "Ernie4_5_MoeForCausalLM",
        moe(moe_num_shared_experts=1, moe_layer_start_index=2, tie_word_embeddings=False, head_dim=32),
        explained=WIDTH,
        dtype="F32",
    ),
    "ernie-moe-unshared": Recipe(
        "Ernie4_5_MoeForCausalLM",
        moe(moe_k=3, moe_num_experts=8, moe_num_shared_experts=0, num_key_value_heads=4, moe_layer_start_index=0),
    ),
    "ernie-moe-in-memory": Recipe(
        "Ernie4_5_MoeForCausalLM",
        moe(rope_parameters={"rope_type": "default", "rope_theta": 10000.0}),
        alter=lambda shapes: rename((".mlp.moe_statics.", ".mlp.gate.moe_statics."))(fuse()(shapes)),
        no_golden="llama.cpp's converter does not know these names",
    ),
    "ernie-moe-old-config": Recipe(
        "Ernie4_5_MoeForCausalLM",
        moe(num_hidden_layers=2),
        extra_config={**OLD_CONFIG, "moe_use_aux_free": True, "moe_gate": "topk", "moe_layer_end_index": -1},
        explained=WIDTH,
    ),
}
