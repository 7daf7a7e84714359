"""OLMoE."""

from recipes._experts import fuse
from recipes._recipe import Recipe, decoder
from recipes.llama import LINEAR, OLD_CONFIG


def moe(**changes):
    sizes = {"num_experts": 4, "num_experts_per_tok": 2, "intermediate_size": 32, "num_key_value_heads": 4}
    return decoder(**{**sizes, **changes})


RECIPES = {
    "olmoe": Recipe("OlmoeForCausalLM", moe()),
    "olmoe-eight": Recipe(
        "OlmoeForCausalLM",
        moe(num_experts=8, num_experts_per_tok=3, rms_norm_eps=1e-4, rope_parameters=LINEAR),
        explained={
            "olmoe.attention.layer_norm_rms_epsilon": "llama.cpp's converter writes 1e-5, whatever the config says"
        },
        dtype="F32",
    ),
    "olmoe-tied": Recipe(
        "OlmoeForCausalLM",
        moe(tie_word_embeddings=True, num_attention_heads=2, num_key_value_heads=2),
        explained={"output.weight": "llama.cpp does not load this architecture without"},
    ),
    "olmoe-normed": Recipe(
        "OlmoeForCausalLM",
        moe(norm_topk_prob=True),
        alter=fuse(),
        warns=("the weights of the chosen experts",),
        no_golden="llama.cpp's converter does not know fused experts here",
        no_logits="llama.cpp does not normalize the weights of the experts",
    ),
    "olmoe-old-config": Recipe("OlmoeForCausalLM", moe(num_hidden_layers=2), extra_config={**OLD_CONFIG}),
}
