"""Llama 4, text alone and within its wrapper."""

from recipes._recipe import Recipe, decoder
from recipes.llama import LLAMA3_ROPE, OLD_CONFIG


def moe(**changes):
    sizes = {"num_local_experts": 4, "num_experts_per_tok": 1, "intermediate_size": 32, "intermediate_size_mlp": 80}
    return decoder(**{**sizes, "head_dim": 16, "num_hidden_layers": 4, **changes})


VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
    "vision_output_dim": 32,
    "projector_input_dim": 32,
    "projector_output_dim": 32,
}
RECIPES = {
    "llama4": Recipe("Llama4ForCausalLM", moe()),
    "llama4-interleaved": Recipe(
        "Llama4ForCausalLM",
        moe(interleave_moe_layer_step=2, tie_word_embeddings=True, head_dim=32, num_key_value_heads=1),
        dtype="F32",
    ),
    "llama4-llama3-rope": Recipe(
        "Llama4ForCausalLM",
        moe(rope_parameters=LLAMA3_ROPE, num_experts_per_tok=2, num_hidden_layers=5, attention_bias=True),
        alter=lambda shapes: {name: shape for name, shape in shapes.items() if not name.endswith("o_proj.bias")},
        no_logits="llama.cpp has no bias of the attention's output",
    ),
    "llama4-maverick": Recipe(
        "Llama4ForCausalLM",
        moe(
            num_local_experts=128, use_qk_norm=False, interleave_moe_layer_step=2, hidden_size=32, intermediate_size=16
        ),
    ),
    "llama4-chunks": Recipe(
        "Llama4ForCausalLM",
        moe(attention_chunk_size=64, floor_scale=64),
        warns=("in chunks of 8192", "beyond 64 tokens"),
    ),
    "llama4-vision": Recipe(
        "Llama4ForConditionalGeneration",
        {"text_config": moe(interleave_moe_layer_step=2), "vision_config": VISION},
        warns=("of vision_model", "of multi_modal_projector"),
        weights={"vision|projector": (0.0, 0.05)},
    ),
    # Scout's config.json as released, but for the sizes
    "llama4-scout": Recipe(
        "Llama4ForConditionalGeneration",
        {
            "text_config": moe(
                rope_parameters={**LLAMA3_ROPE, "factor": 16.0, "low_freq_factor": 1.0, "high_freq_factor": 1.0}
            ),
            "vision_config": VISION,
        },
        alter=lambda shapes: {
            f"language_model.{name.replace('.language_model.', '.')}" if "language_model" in name else name: s
            for name, s in shapes.items()
        },
        warns=("of vision_model", "of multi_modal_projector"),
        no_logits="transformers does not read these names",
    ),
    "llama4-old-config": Recipe(
        "Llama4ForCausalLM",
        moe(),
        extra_config={
            **OLD_CONFIG,
            "layer_types": None,
            "no_rope_layers": [],
            "moe_layers": None,
            "for_llm_compressor": False,
        },
    ),
}
