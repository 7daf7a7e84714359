"""MiniCPM."""

from recipes._recipe import VOCABULARY, Recipe, decoder

MLA = {
    "num_key_value_heads": 4,
    "kv_lora_rank": 32,
    "q_lora_rank": 24,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
}
FACTORS = {"long_factor": [1.0, 2.0, 3.0, 4.0], "short_factor": [1.0, 1.1, 1.2, 1.3]}
LONGROPE = {"rope_type": "longrope", "rope_theta": 10000.0, **FACTORS}
BASE = {"minicpm3.rope.freq_base": "llama.cpp's converter does not write MiniCPM 3's rope base"}

OLD = {
    "architectures": ["MiniCPMForCausalLM"],
    "model_type": "minicpm",
    "hidden_act": "silu",
    "scale_emb": 12,
    "scale_depth": 1.4,
    "dim_model_base": 16,
    **decoder(num_hidden_layers=2),
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
}
BLOCK = {
    "input_layernorm.weight": (64,),
    "self_attn.q_proj.weight": (64, 64),
    "self_attn.k_proj.weight": (32, 64),
    "self_attn.v_proj.weight": (32, 64),
    "self_attn.o_proj.weight": (64, 64),
    "post_attention_layernorm.weight": (64,),
    "mlp.gate_proj.weight": (96, 64),
    "mlp.up_proj.weight": (96, 64),
    "mlp.down_proj.weight": (64, 96),
}
SHAPES = {
    "model.embed_tokens.weight": (VOCABULARY, 64),
    **{f"model.layers.{b}.{name}": shape for b in range(2) for name, shape in BLOCK.items()},
    "model.norm.weight": (64,),
}
NO_LOGITS = "transformers does not build it"

EPSILON = "norms latent queries and keys with the model's epsilon of 1e-05"
BY_CONTEXT = ("takes LongRoPE's factors for long texts whenever its context",)
RECIPES = {
    "minicpm": Recipe("MiniCPMForCausalLM", OLD, shapes=SHAPES, raw_config=True, no_logits=NO_LOGITS),
    "minicpm-longrope": Recipe(
        "MiniCPMForCausalLM",
        {
            **OLD,
            "tie_word_embeddings": False,
            "rope_scaling": {
                "rope_type": "longrope",
                "long_factor": [1.0 + i / 4 for i in range(8)],
                "short_factor": [1.0 + i / 16 for i in range(8)],
                "original_max_position_embeddings": 512,
            },
        },
        shapes={**SHAPES, "lm_head.weight": (VOCABULARY, 64)},
        raw_config=True,
        no_logits=NO_LOGITS,
        warns=BY_CONTEXT,
    ),
    "minicpm3": Recipe("MiniCPM3ForCausalLM", decoder(**MLA), warns=(EPSILON,)),
    "minicpm3-wide": Recipe(
        "MiniCPM3ForCausalLM",
        decoder(
            **{**MLA, "qk_rope_head_dim": 16, "v_head_dim": 24},
            tie_word_embeddings=False,
            rope_parameters={"rope_type": "default", "rope_theta": 50000.0},
        ),
        warns=(EPSILON,),
        explained={
            **BASE,
            "minicpm3.attention.value_length": "without it llama.cpp takes hidden / heads, and does not load the file",
        },
    ),
    "minicpm3-longrope": Recipe(
        "MiniCPM3ForCausalLM",
        decoder(**MLA, rope_parameters={**LONGROPE, "original_max_position_embeddings": 512}),
        warns=(*BY_CONTEXT, EPSILON),
    ),
    "minicpm3-stretched": Recipe(
        "MiniCPM3ForCausalLM",
        # llama.cpp chooses by the size of the context, at least 256, which factors count
        decoder(**MLA, rope_parameters={**LONGROPE, "original_max_position_embeddings": 256}),
        warns=(*BY_CONTEXT, EPSILON),
        explained={
            "minicpm3.rope.scaling.attn_factor": "llama.cpp's converter does not write LongRoPE's scale of q and k",
            "minicpm3.rope.scaling.original_context_length": "nor from where on the long factors count",
        },
    ),
}
