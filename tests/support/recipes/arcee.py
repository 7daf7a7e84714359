"""Arcee AFM."""

from recipes._recipe import Recipe, decoder
from recipes.llama import LLAMA3_ROPE, YARN

RECIPES = {
    "arcee": Recipe("ArceeForCausalLM", decoder(rope_parameters=YARN)),
    "arcee-tied": Recipe(
        "ArceeForCausalLM", decoder(head_dim=32, tie_word_embeddings=True, rope_parameters=LLAMA3_ROPE)
    ),
    "arcee-released": Recipe(
        "ArceeForCausalLM",
        decoder(num_key_value_heads=1, rope_parameters={**YARN, "beta_fast": 32.0, "beta_slow": 1.0}),
        extra_config={
            "rope_parameters": None,
            "rope_theta": 10000.0,
            "rope_scaling": {
                "type": "yarn",
                "factor": 4.0,
                "original_max_position_embeddings": 128,
                "beta_fast": 32.0,
                "beta_slow": 1.0,
                "mscale": 1.0,
            },
        },
        raw_config=True,
    ),
}
