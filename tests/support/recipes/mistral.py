"""Mistral 3 and Ministral 3."""

from recipes._recipe import Recipe, decoder

MINISTRAL_ROPE = {
    "rope_type": "yarn",
    "rope_theta": 1e6,
    "factor": 4.0,
    "original_max_position_embeddings": 16,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "mscale_all_dim": 1.0,
    "mscale": 1.0,
    "llama_4_scaling_beta": 0.1,
}
VISION = {
    "model_type": "pixtral",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
LEFT_OUT = ("of vision_tower", "of multi_modal_projector")

RECIPES = {
    "ministral3": Recipe("Ministral3ForCausalLM", decoder(head_dim=32, rope_parameters=MINISTRAL_ROPE)),
    "ministral3-tied": Recipe(
        "Ministral3ForCausalLM",
        decoder(
            head_dim=16,
            tie_word_embeddings=True,
            rope_parameters={**MINISTRAL_ROPE, "factor": 16.0, "original_max_position_embeddings": 32},
        ),
    ),
    "ministral3-betas": Recipe(
        "Ministral3ForCausalLM",
        decoder(head_dim=32, rope_parameters={**MINISTRAL_ROPE, "beta_fast": 4.0, "beta_slow": 0.5}),
    ),
    "mistral3": Recipe(
        "Mistral3ForConditionalGeneration",
        {
            "text_config": {"model_type": "mistral", **decoder(head_dim=32, sliding_window=None)},
            "vision_config": VISION,
            "image_token_index": 10,
        },
        warns=LEFT_OUT,
    ),
    "mistral3-ministral": Recipe(
        "Mistral3ForConditionalGeneration",
        {
            "text_config": {"model_type": "ministral3", **decoder(head_dim=32, rope_parameters=MINISTRAL_ROPE)},
            "vision_config": VISION,
            "image_token_index": 10,
        },
        warns=LEFT_OUT,
    ),
}
