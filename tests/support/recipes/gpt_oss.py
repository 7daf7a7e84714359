"""GPT-OSS, as re-saved without MXFP4."""

from recipes._recipe import Recipe, decoder
from recipes.llama import OLD_CONFIG, YARN


def moe(**changes):
    return decoder(**{"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 8, "head_dim": 32, **changes})


RELEASED_YARN = {
    "rope_type": "yarn",
    "factor": 32.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "original_max_position_embeddings": 4096,
    "truncate": False,
}
DEFAULT_ROPE = {"rope_type": "default", "rope_theta": 150000.0}
UNROUNDED = ("rounds the ends of YaRN's ramp",)
RECIPES = {
    "gpt-oss": Recipe("GptOssForCausalLM", moe(), warns=UNROUNDED),
    "gpt-oss-plain": Recipe(
        "GptOssForCausalLM",
        moe(rope_parameters=DEFAULT_ROPE, head_dim=16, sliding_window=64, num_experts_per_tok=3, num_key_value_heads=1),
        dtype="F32",
    ),
    "gpt-oss-yarn": Recipe(
        "GptOssForCausalLM",
        moe(rope_parameters={**YARN, "truncate": True}, num_local_experts=8, num_hidden_layers=4, intermediate_size=64),
    ),
    "gpt-oss-tied": Recipe(
        "GptOssForCausalLM",
        moe(tie_word_embeddings=True, rope_parameters=DEFAULT_ROPE, num_hidden_layers=2),
        explained={"output.weight": "llama.cpp does not load this architecture without"},
    ),
    "gpt-oss-old-config": Recipe(
        "GptOssForCausalLM",
        moe(num_hidden_layers=2),
        warns=UNROUNDED,
        extra_config={
            **OLD_CONFIG,
            "rope_scaling": RELEASED_YARN,
            "rope_theta": 150000,
            "experts_per_token": 2,
            "initial_context_length": 4096,
            "swiglu_limit": 7.0,
            "layer_types": None,
        },
    ),
}
