"""Phi 2, and Phi 3 with and without longrope."""

from recipes._recipe import Recipe, decoder


def longrope(pairs: int, **more) -> dict:
    """Factors for each rotated pair; prompts of the tests are shorter than the original context."""
    return {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0 + 0.1 * pair for pair in range(pairs)],
        "long_factor": [1.0 + 0.5 * pair for pair in range(pairs)],
        "original_max_position_embeddings": 512,
        **more,
    }


BY_CONTEXT = ("takes LongRoPE's factors for long texts whenever its context",)
RECIPES = {
    "phi2": Recipe("PhiForCausalLM", decoder(num_key_value_heads=4, intermediate_size=256)),
    "phi2-partial": Recipe(
        "PhiForCausalLM",
        decoder(
            num_key_value_heads=4,
            intermediate_size=256,
            rope_parameters={"rope_theta": 10000.0, "partial_rotary_factor": 0.25, "rope_type": "default"},
            layer_norm_eps=1e-6,
        ),
        dtype="F16",
    ),
    "phi3": Recipe("Phi3ForCausalLM", decoder(original_max_position_embeddings=512)),
    "phi3-window": Recipe(
        "Phi3ForCausalLM", decoder(sliding_window=64), warns=("does not apply this model's sliding_window of 64",)
    ),
    "phi3-longrope": Recipe(
        "Phi3ForCausalLM",
        decoder(rope_parameters=longrope(8), original_max_position_embeddings=512, max_position_embeddings=4096),
        warns=BY_CONTEXT,
    ),
    "phi3-longrope-scaled": Recipe(
        "Phi3ForCausalLM",
        decoder(
            rope_parameters=longrope(8, attention_factor=1.25),
            original_max_position_embeddings=512,
            max_position_embeddings=4096,
        ),
        warns=BY_CONTEXT,
        explained={"phi3.rope.scaling.attn_factor": "llama.cpp's converter does not read attention_factor"},
    ),
    "phi3-longrope-factor": Recipe(
        "Phi3ForCausalLM",
        decoder(
            rope_parameters=longrope(8, factor=3.0),
            original_max_position_embeddings=512,
            max_position_embeddings=4096,
        ),
        warns=BY_CONTEXT,
        explained={"phi3.rope.scaling.attn_factor": "llama.cpp's converter does not read factor"},
    ),
    "phi3-released": Recipe(
        "Phi3ForCausalLM",
        decoder(rope_parameters=longrope(8), original_max_position_embeddings=512, max_position_embeddings=4096),
        extra_config={
            "rope_parameters": None,
            "rope_theta": 10000.0,
            "rope_scaling": {
                "type": "su",
                "short_factor": longrope(8)["short_factor"],
                "long_factor": longrope(8)["long_factor"],
            },
        },
        warns=BY_CONTEXT,
        no_logits="transformers wants original_max_position_embeddings among the rope's settings",
    ),
    "phi4-partial": Recipe(
        "Phi3ForCausalLM",
        decoder(
            rope_parameters=longrope(6, partial_rotary_factor=0.75),
            original_max_position_embeddings=512,
            max_position_embeddings=2048,
            tie_word_embeddings=True,
            num_key_value_heads=1,
        ),
        warns=BY_CONTEXT,
        dtype="F32",
    ),
}
