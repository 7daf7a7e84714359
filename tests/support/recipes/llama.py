"""Llama and what is Llama by another name."""

from recipes._recipe import Recipe, decoder

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 128}
LINEAR = {"rope_type": "linear", "rope_theta": 50000.0, "factor": 2.0}

RECIPES = {
    "llama": Recipe("LlamaForCausalLM", decoder(rope_parameters=LLAMA3_ROPE)),
}
