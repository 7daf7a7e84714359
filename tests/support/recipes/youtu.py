"""Youtu-LLM."""

from recipes._recipe import Recipe, decoder

# transformers empties the row of a padding token where the output is tied to it
MLA = {"pad_token_id": None, "num_key_value_heads": 4, "kv_lora_rank": 32, "q_lora_rank": 24}

RECIPES = {
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
