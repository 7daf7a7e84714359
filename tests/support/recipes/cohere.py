"""Cohere's Command."""

from recipes._recipe import Recipe, decoder

RECIPES = {
    "cohere": Recipe("CohereForCausalLM", decoder(logit_scale=0.5)),
    "cohere-head-norms": Recipe(
        "CohereForCausalLM",
        decoder(
            logit_scale=0.25,
            use_qk_norm=True,
            num_hidden_layers=64,
            hidden_size=32,
            num_attention_heads=2,
            num_key_value_heads=1,
            layer_norm_eps=1e-3,
        ),
    ),
    "cohere-released": Recipe(
        "CohereForCausalLM",
        decoder(rope_parameters={"rope_type": "default", "rope_theta": 8e6}, num_key_value_heads=4),
        extra_config={"rope_parameters": None, "rope_theta": 8000000.0, "model_max_length": 1024, "use_qk_norm": None},
        raw_config=True,
        dtype="F16",
    ),
    # llama.cpp's converter wants rotary_pct, which released configs have and transformers does not.
    "cohere2": Recipe(
        "Cohere2ForCausalLM", decoder(sliding_window=8, num_hidden_layers=5), extra_config={"rotary_pct": 1.0}
    ),
    "cohere2-layer-types": Recipe(
        "Cohere2ForCausalLM",
        decoder(
            sliding_window=12,
            layer_types=["full_attention", "sliding_attention", "sliding_attention"],
            logit_scale=0.5,
            rope_parameters={"rope_type": "default", "rope_theta": 50000.0},
        ),
        extra_config={"rotary_pct": 1.0},
        explained={"cohere2.attention.sliding_window_pattern": "llama.cpp's converter takes every fourth for granted"},
    ),
    "cohere2-released": Recipe(
        "Cohere2ForCausalLM",
        decoder(sliding_window=8, num_hidden_layers=4, rope_parameters={"rope_type": "default", "rope_theta": 50000.0}),
        extra_config={
            "rope_parameters": None,
            "rope_theta": 50000,
            "rotary_pct": 1.0,
            "layer_types": None,
            "sliding_window_pattern": 4,
        },
        raw_config=True,
    ),
}
