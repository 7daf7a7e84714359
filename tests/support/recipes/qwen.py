"""Qwen 2 and 3, dense, and the text models of Qwen-VL."""

from recipes._recipe import Recipe, decoder
from recipes.llama import LINEAR, YARN

VISION2 = {"embed_dim": 32, "depth": 1, "num_heads": 2, "hidden_size": 64, "mlp_ratio": 2}
VISION25 = {"hidden_size": 32, "depth": 1, "num_heads": 2, "out_hidden_size": 64, "intermediate_size": 48}
VISION3 = {**VISION25, "deepstack_visual_indexes": [0], "num_position_embeddings": 16}
MROPE = {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3]}
INTERLEAVED = {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [6, 5, 5], "mrope_interleaved": True}
LEFT_OUT = ("of visual",)
WINDOW = ("does not apply this model's sliding_window of",)
KORMO_NORMS = {
    "input_layernorm": "pre_attention_layernorm",
    "post_attention_layernorm": "pre_mlp_layernorm",
}


def as_kormo(shapes):
    for theirs, kormos in KORMO_NORMS.items():
        shapes = {name.replace(theirs, kormos): shape for name, shape in shapes.items()}
    return shapes


def old_names(shapes):
    """As Qwen 2 VL's checkpoints have them: `model.` for the text, `visual.` for the tower."""
    return {
        name.replace("model.language_model.", "model.").replace("model.visual.", "visual."): s
        for name, s in shapes.items()
    }


LEFT_OUT2 = (*LEFT_OUT, "without the model's epsilon")  # llama.cpp reads none for Qwen 2 VL
RECIPES = {
    "qwen2": Recipe("Qwen2ForCausalLM", decoder(use_sliding_window=False)),
    "qwen2-yarn": Recipe("Qwen2ForCausalLM", decoder(rope_parameters=YARN, num_key_value_heads=1), dtype="F32"),
    "qwen2-tied": Recipe("Qwen2ForCausalLM", decoder(tie_word_embeddings=True, rms_norm_eps=1e-5)),
    "qwen2-linear": Recipe("Qwen2ForCausalLM", decoder(rope_parameters=LINEAR, num_attention_heads=8)),
    "qwen2-window": Recipe(
        "Qwen2ForCausalLM",
        decoder(use_sliding_window=True, sliding_window=64, max_window_layers=1),
        warns=WINDOW,
    ),
    "qwen2-model": Recipe("Qwen2Model", decoder(num_key_value_heads=4)),
    "kormo": Recipe(
        "Qwen2ForCausalLM",
        decoder(),
        alter=as_kormo,
        extra_config={"architectures": ["KORMoForCausalLM"], "model_type": "kormo"},
        no_logits="transformers builds no KORMo",
    ),
    "qwen3": Recipe("Qwen3ForCausalLM", decoder(head_dim=32, use_sliding_window=False)),
    "qwen3-tied": Recipe(
        "Qwen3ForCausalLM", decoder(head_dim=16, tie_word_embeddings=True, rope_parameters=YARN), dtype="F16"
    ),
    "qwen3-wide": Recipe("Qwen3ForCausalLM", decoder(head_dim=64, num_key_value_heads=1, num_hidden_layers=2)),
    "qwen3-model": Recipe("Qwen3Model", decoder(head_dim=32)),
    "qwen2-vl": Recipe(
        "Qwen2VLForConditionalGeneration",
        {"text_config": decoder(rope_parameters=MROPE), "vision_config": VISION2},
        warns=LEFT_OUT2,
    ),
    "qwen2-vl-released": Recipe(
        "Qwen2VLForConditionalGeneration",
        {"text_config": decoder(rope_parameters=MROPE), "vision_config": VISION2},
        extra_config={
            **decoder(),
            "text_config": None,
            "model_type": "qwen2_vl",
            "rms_norm_eps": 1e-5,
            "rope_theta": 1e6,
            "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]},
            "use_sliding_window": False,
            "sliding_window": 32768,
            "tie_word_embeddings": False,
        },
        alter=old_names,
        warns=LEFT_OUT2,
    ),
    "qwen2-vl-old-names": Recipe(
        "Qwen2VLForConditionalGeneration",
        {"text_config": decoder(rope_parameters=MROPE), "vision_config": VISION2},
        alter=old_names,
        warns=LEFT_OUT2,
    ),
    "qwen2.5-vl": Recipe(
        "Qwen2_5_VLForConditionalGeneration",
        {"text_config": decoder(rope_parameters=MROPE), "vision_config": VISION25, "tie_word_embeddings": True},
        warns=LEFT_OUT2,
    ),
    "qwen3-vl-sections": Recipe(
        "Qwen3VLForConditionalGeneration",
        {"text_config": decoder(head_dim=16, rope_parameters=INTERLEAVED), "vision_config": VISION3},
        warns=LEFT_OUT,
        explained={"qwen3vl.rope.dimension_sections": "ggml aborts on more pairs than the head has"},
    ),
    "qwen3-vl": Recipe(
        "Qwen3VLForConditionalGeneration",
        {"text_config": decoder(head_dim=32, rope_parameters=INTERLEAVED), "vision_config": VISION3},
        warns=LEFT_OUT,
    ),
    "qwen2-vl-model": Recipe(
        "Qwen2VLForConditionalGeneration",
        {"text_config": decoder(rope_parameters=MROPE, tie_word_embeddings=True), "vision_config": VISION2},
        extra_config={"architectures": ["Qwen2VLModel"]},
        alter=lambda shapes: {name: shape for name, shape in shapes.items() if name != "lm_head.weight"},
        warns=LEFT_OUT2,
        no_logits="a model without head, whose tensors are those of the one with it",
    ),
}
