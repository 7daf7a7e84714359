"""Granite."""

from recipes._recipe import Recipe, decoder
from recipes.llama import LLAMA3_ROPE, YARN

SCALES = {
    "embedding_multiplier": 12.0,
    "logits_scaling": 8.0,
    "residual_multiplier": 0.22,
    "attention_multiplier": 0.0625,
}

RECIPES = {
    "granite": Recipe("GraniteForCausalLM", decoder(**SCALES)),
    "granite-biased": Recipe(
        "GraniteForCausalLM",
        decoder(
            attention_bias=True,
            mlp_bias=True,
            tie_word_embeddings=True,
            num_key_value_heads=1,
        ),
        dtype="F32",
    ),
    "granite-llama3": Recipe(
        "GraniteForCausalLM",
        decoder(**SCALES, rope_parameters=LLAMA3_ROPE),
        no_golden="llama.cpp's converter has no name for Granite's rope factors; llama.cpp loads them",
    ),
    "granite-yarn": Recipe("GraniteForCausalLM", decoder(**SCALES, rope_parameters=YARN)),
    "granite-released": Recipe(
        "GraniteForCausalLM",
        decoder(**SCALES, rope_parameters={"rope_type": "default", "rope_theta": 1e7}),
        extra_config={
            "rope_parameters": None,
            "rope_theta": 10000000.0,
            "rope_scaling": None,
            "embedding_multiplier": 12,
        },
        raw_config=True,
    ),
    "granite-swa": Recipe("GraniteSWAForCausalLM", decoder(**SCALES, sliding_window=8, num_hidden_layers=5)),
    "granite-swa-unroped": Recipe(
        "GraniteSWAForCausalLM",
        decoder(
            sliding_window=12,
            tie_word_embeddings=False,
            layer_types=["sliding_attention", "full_attention", "sliding_attention"],
            layer_rope_theta=[20000.0, 0, 20000.0],
            attention_bias=True,
            mlp_bias=True,
        ),
        explained={
            "granite_swa.attention.rope_pattern": "llama.cpp's converter looks for no_rope_layers alone",
            "granite_swa.rope.freq_base": "llama.cpp's converter does not read layer_rope_theta",
        },
    ),
}
