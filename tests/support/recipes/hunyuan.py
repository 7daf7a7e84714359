"""Hunyuan, dense."""

from recipes._recipe import Recipe, decoder

DYNAMIC = {"rope_type": "dynamic", "alpha": 1000.0, "rope_theta": 10000.0, "factor": 1.0}

RECIPES = {
    "hunyuan": Recipe("HunYuanDenseV1ForCausalLM", decoder(head_dim=32)),
    "hunyuan-stretched": Recipe(
        "HunYuanDenseV1ForCausalLM",
        decoder(head_dim=16, tie_word_embeddings=True, max_position_embeddings=32768, rope_parameters=DYNAMIC),
    ),
    "hunyuan-released": Recipe(
        "HunYuanDenseV1ForCausalLM",
        decoder(
            head_dim=32,
            num_key_value_heads=1,
            tie_word_embeddings=True,
            max_position_embeddings=32768,
            rope_parameters=DYNAMIC,
        ),
        extra_config={
            "rope_parameters": None,
            "rope_theta": 10000.0,
            "rope_scaling": {
                "type": "dynamic",
                "alpha": 1000.0,
                "beta_fast": 32,
                "beta_slow": 1,
                "factor": 1.0,
                "mscale": 1.0,
                "mscale_all_dim": 0.0,
            },
        },
        # an output beside a tied embedding, which llama.cpp's converter leaves out
        alter=lambda shapes: {**shapes, "lm_head.weight": (384, 64)},
        raw_config=True,
        no_logits="transformers takes the output that is there, where it differs from the embedding",
    ),
}
