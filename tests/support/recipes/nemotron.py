"""Nemotron."""

from recipes._recipe import Recipe, decoder

RECIPES = {
    "nemotron": Recipe("NemotronForCausalLM", decoder(), weights={r"norm\.weight$": (0.0, 0.2)}),
    "nemotron-biased": Recipe(
        "NemotronForCausalLM",
        decoder(
            attention_bias=True,
            mlp_bias=True,
            norm_eps=1e-3,
            rope_parameters={"rope_type": "default", "rope_theta": 50000.0, "partial_rotary_factor": 0.25},
        ),
        weights={r"norm\.weight$": (0.0, 0.2)},
        dtype="F32",
    ),
    "nemotron-released": Recipe(
        "NemotronForCausalLM",
        decoder(
            num_key_value_heads=4,
            rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4, "partial_rotary_factor": 1.0},
        ),
        extra_config={
            "rope_parameters": None,
            "rope_theta": 10000,
            "rope_percent": 1.0,
            "partial_rotary_factor": 1.0,
            "rope_scaling": {"type": "linear", "factor": 2.0},
        },
        weights={r"norm\.weight$": (0.0, 0.2)},
        raw_config=True,
    ),
}
