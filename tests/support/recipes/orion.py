"""Orion."""

from recipes._recipe import Recipe, decoder
from recipes.xverse import shapes

NORMS = ("input_layernorm", "post_attention_layernorm")

RECIPES = {
    "orion": Recipe(
        "OrionForCausalLM",
        {
            "architectures": ["OrionForCausalLM"],
            "model_type": "orion",
            "hidden_act": "silu",
            **decoder(num_hidden_layers=2, max_position_embeddings=None),
            "max_sequence_length": 512,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "tie_word_embeddings": False,
        },
        shapes={
            **shapes(32),
            **{f"model.layers.{b}.{norm}.bias": (64,) for b in range(2) for norm in NORMS},
            "model.norm.bias": (64,),
        },
        raw_config=True,
        no_logits="transformers does not build it",
    ),
}
