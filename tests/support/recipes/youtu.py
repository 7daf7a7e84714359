"""Youtu-LLM."""

from recipes._recipe import Recipe, decoder
from recipes.llama import YARN

# transformers empties the row of a padding token where the output is tied to it
MLA = {"pad_token_id": None, "num_key_value_heads": 4, "kv_lora_rank": 32, "q_lora_rank": 24}

SIZES = {"qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 16}
YARN_SCALES = {
    f"deepseek2.rope.scaling.{key}": "without it llama.cpp scales attention otherwise than the model"
    for key in ("attn_factor", "yarn_log_multiplier")
}

RECIPES = {
    "youtu-yarn": Recipe("YoutuForCausalLM", decoder(**MLA, **SIZES, rope_parameters=YARN), explained=YARN_SCALES),
    "youtu-yarn-scaled": Recipe(
        "YoutuForCausalLM",
        decoder(**MLA, **SIZES, rope_parameters={**YARN, "mscale": 0.707, "mscale_all_dim": 0.707}),
    ),
    "youtu-yarn-unequal": Recipe(
        "YoutuForCausalLM",
        decoder(**MLA, **SIZES, rope_parameters={**YARN, "mscale": 1.0, "mscale_all_dim": 0.5}),
        explained=YARN_SCALES,
    ),
    "youtu": Recipe("YoutuForCausalLM", decoder(**MLA, qk_nope_head_dim=16, qk_rope_head_dim=8, v_head_dim=16)),
    "youtu-untied": Recipe(
        "YoutuForCausalLM",
        decoder(**MLA, qk_nope_head_dim=8, qk_rope_head_dim=16, v_head_dim=24, tie_word_embeddings=False),
    ),
    "youtu-lite": Recipe(
        "YoutuForCausalLM",
        {
            **decoder(**MLA, num_hidden_layers=26, qk_nope_head_dim=8, qk_rope_head_dim=8, v_head_dim=16),
            "q_lora_rank": None,
        },
    ),
}
