"""OLMo 1, 2 and 3."""

from recipes._recipe import Recipe, decoder

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}
TIED = {"output.weight": "llama.cpp does not load a tied OLMo 2: the output is written a second time"}

RECIPES = {
    "olmo": Recipe("OlmoForCausalLM", decoder()),
    "olmo-clipped": Recipe(
        "OlmoForCausalLM", decoder(clip_qkv=0.5, tie_word_embeddings=True, num_key_value_heads=4), dtype="F32"
    ),
    "olmo2": Recipe("Olmo2ForCausalLM", decoder()),
    "olmo2-linear": Recipe(
        "Olmo2ForCausalLM",
        decoder(
            num_key_value_heads=4,
            rms_norm_eps=1e-4,
            rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 500000.0},
        ),
    ),
    "olmo2-tied": Recipe("Olmo2ForCausalLM", decoder(tie_word_embeddings=True), explained=TIED),
    "olmo3": Recipe("Olmo3ForCausalLM", decoder(sliding_window=8, num_hidden_layers=4)),
    "olmo3-yarn": Recipe(
        "Olmo3ForCausalLM",
        decoder(
            sliding_window=8,
            layer_types=["full_attention", "sliding_attention", "full_attention"],
            rope_parameters={
                "full_attention": {**YARN, "rope_theta": 500000.0, "attention_factor": 1.3},
                "sliding_attention": {"rope_type": "default", "rope_theta": 500000.0},
            },
        ),
        explained={"olmo2.rope.scaling.attn_factor": "llama.cpp's converter writes it under a key that is only stored"},
    ),
    # As released: one base beside one scaling, which is for full attention alone.
    "olmo3-released": Recipe(
        "Olmo3ForCausalLM",
        decoder(
            sliding_window=16,
            num_hidden_layers=4,
            rope_parameters={
                "full_attention": {**YARN, "rope_theta": 500000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 500000.0},
            },
        ),
        extra_config={"rope_parameters": None, "rope_scaling": YARN, "rope_theta": 500000.0, "layer_types": None},
    ),
}
