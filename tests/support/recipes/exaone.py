"""EXAONE 3 and 4."""

from recipes._recipe import VOCABULARY, Recipe, decoder
from recipes.llama import LLAMA3_ROPE

OLD = {
    "architectures": ["ExaoneForCausalLM"],
    "model_type": "exaone",
    "activation_function": "silu",
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 512,
    "layer_norm_epsilon": 1e-5,
    "rope_theta": 1000000,
    "rope_scaling": {key: value for key, value in LLAMA3_ROPE.items() if key != "rope_theta"},
    "tie_word_embeddings": True,
}
BLOCK = {
    "ln_1.weight": (64,),
    "attn.attention.q_proj.weight": (64, 64),
    "attn.attention.k_proj.weight": (32, 64),
    "attn.attention.v_proj.weight": (32, 64),
    "attn.attention.out_proj.weight": (64, 64),
    "ln_2.weight": (64,),
    "mlp.c_fc_0.weight": (96, 64),
    "mlp.c_fc_1.weight": (96, 64),
    "mlp.c_proj.weight": (64, 96),
}

RECIPES = {
    "exaone": Recipe(
        "ExaoneForCausalLM",
        OLD,
        shapes={
            "transformer.wte.weight": (VOCABULARY, 64),
            **{f"transformer.h.{b}.{name}": shape for b in range(2) for name, shape in BLOCK.items()},
            "transformer.ln_f.weight": (64,),
        },
        raw_config=True,
        no_logits="transformers does not build it",
        explained={
            "exaone.attention.layer_norm_rms_epsilon": "llama.cpp's converter looks for rms_norm_eps alone, "
            "and llama.cpp does not load its file",
            "exaone.attention.layer_norm_epsilon": "the norms are RMSNorms",
        },
    ),
    "exaone-untied": Recipe(
        "ExaoneForCausalLM",
        {**{key: value for key, value in OLD.items() if key != "rope_scaling"}, "tie_word_embeddings": False},
        shapes={
            "transformer.wte.weight": (VOCABULARY, 64),
            **{f"transformer.h.{b}.{name}": shape for b in range(2) for name, shape in BLOCK.items()},
            "transformer.ln_f.weight": (64,),
            "lm_head.weight": (VOCABULARY, 64),
        },
        raw_config=True,
        no_logits="transformers does not build it",
        explained={
            "exaone.attention.layer_norm_rms_epsilon": "as above",
            "exaone.attention.layer_norm_epsilon": "as above",
        },
    ),
    "exaone4": Recipe(
        "Exaone4ForCausalLM",
        {**decoder(rope_parameters=LLAMA3_ROPE, layer_types=["full_attention"] * 3), "sliding_window": None},
    ),
    "exaone4-32b": Recipe(
        "Exaone4ForCausalLM",
        decoder(
            sliding_window=8,
            num_hidden_layers=64,
            hidden_size=32,
            num_attention_heads=2,
            num_key_value_heads=1,
            tie_word_embeddings=True,
        ),
    ),
    "exaone4-spelled": Recipe(
        "Exaone4ForCausalLM",
        decoder(sliding_window=8, num_hidden_layers=64, hidden_size=32, num_attention_heads=2, num_key_value_heads=2),
        extra_config={"layer_types": None, "sliding_window_pattern": "LLLG"},
        raw_config=True,
        no_logits="transformers 5 reads no spelled pattern",
    ),
}
