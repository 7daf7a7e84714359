"""StarCoder 2."""

from recipes._recipe import Recipe, decoder

RECIPES = {
    "starcoder2": Recipe("Starcoder2ForCausalLM", decoder()),
    "starcoder2-window": Recipe(
        "Starcoder2ForCausalLM",
        decoder(
            sliding_window=128,  # longer than the prompt of the tests
            norm_epsilon=1e-3,
            tie_word_embeddings=False,
            num_key_value_heads=1,
            rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        ),
        warns=("does not apply this model's sliding_window of 128",),
    ),
    "starcoder2-released": Recipe(
        "Starcoder2ForCausalLM",
        decoder(rope_parameters={"rope_type": "default", "rope_theta": 999999.4420358813}),
        extra_config={"rope_parameters": None, "rope_theta": 999999.4420358813},
        raw_config=True,
    ),
}
