"""MiniMax M2."""

from recipes._experts import fuse
from recipes._recipe import Recipe, decoder


def moe(**changes):
    sizes = {"num_local_experts": 4, "num_experts_per_tok": 2, "intermediate_size": 32, "head_dim": 32}
    return decoder(**{**sizes, **changes})


def rope(factor, theta=1e6):
    return {"rope_type": "default", "rope_theta": theta, "partial_rotary_factor": factor}


RELEASED = {"scoring_func": "sigmoid", "rotary_dim": 16}
RECIPES = {
    "minimax-m2": Recipe("MiniMaxM2ForCausalLM", moe(rope_parameters=rope(0.5)), extra_config=RELEASED),
    "minimax-m2-wide": Recipe(
        "MiniMaxM2ForCausalLM",
        moe(rope_parameters=rope(0.25, 10000.0), head_dim=64, num_local_experts=8, num_key_value_heads=1),
        extra_config={**RELEASED, "use_routing_bias": True},
        dtype="F32",
    ),
    # the rope's own settings win over the older key
    "minimax-m2-both": Recipe(
        "MiniMaxM2ForCausalLM",
        moe(rope_parameters=rope(0.25), num_key_value_heads=4),
        extra_config=RELEASED,
        explained={"minimax-m2.rope.dimension_count": "llama.cpp's converter reads rotary_dim first"},
    ),
    "minimax-m2-resaved": Recipe(
        "MiniMaxM2ForCausalLM",
        moe(rope_parameters=rope(0.5), head_dim=16, tie_word_embeddings=True),
        alter=fuse(gate="w1", down="w2"),
        no_golden="llama.cpp's converter wants rotary_dim, and does not know fused experts here",
    ),
}
