"""Apertus."""

from recipes._recipe import Recipe, decoder
from recipes.llama import LLAMA3_ROPE

NUMBERS = {r"act_fn\.beta$": (0.5, 0.0), r"act_fn\.eps$": (-1e-6, 0.0), r"act_fn\.alpha": (0.8, 0.3)}

RECIPES = {
    "apertus": Recipe("ApertusForCausalLM", decoder(rope_parameters=LLAMA3_ROPE), weights=NUMBERS),
    "apertus-biased": Recipe(
        "ApertusForCausalLM",
        decoder(
            attention_bias=True,
            rms_norm_eps=1e-3,
            num_key_value_heads=4,
            rope_parameters={"rope_type": "default", "rope_theta": 50000.0},
        ),
        weights=NUMBERS,
        dtype="F32",
    ),
    "apertus-released": Recipe(
        "ApertusForCausalLM",
        decoder(rope_parameters=LLAMA3_ROPE),
        extra_config={
            "rope_parameters": None,
            "rope_theta": 500000.0,
            "rope_scaling": {key: value for key, value in LLAMA3_ROPE.items() if key != "rope_theta"},
        },
        weights=NUMBERS,
        raw_config=True,
    ),
}
