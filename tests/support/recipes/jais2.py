"""Jais 2."""

from recipes._recipe import Recipe, decoder

RECIPES = {
    "jais2": Recipe("Jais2ForCausalLM", decoder(head_dim=32)),
    "jais2-tied": Recipe(
        "Jais2ForCausalLM",
        decoder(
            num_key_value_heads=4,
            tie_word_embeddings=True,
            layer_norm_eps=1e-3,
            rope_parameters={"rope_type": "default", "rope_theta": 500000.0},
        ),
    ),
}
