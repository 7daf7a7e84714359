"""Qwen 2 and 3, dense."""

from recipes._recipe import Recipe, decoder

RECIPES = {
    "qwen2": Recipe("Qwen2ForCausalLM", decoder(use_sliding_window=False)),
    "qwen3": Recipe("Qwen3ForCausalLM", decoder(head_dim=32, use_sliding_window=False)),
}
