"""Baichuan."""

from recipes._recipe import VOCABULARY, Recipe, decoder

CONFIG = {
    "architectures": ["BaichuanForCausalLM"],
    "model_type": "baichuan",
    "hidden_act": "silu",
    **decoder(num_hidden_layers=2, num_key_value_heads=None),
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
}
BLOCK = {
    "input_layernorm.weight": (64,),
    "self_attn.W_pack.weight": (192, 64),
    "self_attn.o_proj.weight": (64, 64),
    "post_attention_layernorm.weight": (64,),
    "mlp.gate_proj.weight": (96, 64),
    "mlp.up_proj.weight": (96, 64),
    "mlp.down_proj.weight": (64, 96),
}


def shapes(layers: int) -> dict[str, tuple[int, ...]]:
    return {
        "model.embed_tokens.weight": (VOCABULARY, 64),
        **{f"model.layers.{b}.{name}": shape for b in range(layers) for name, shape in BLOCK.items()},
        "model.norm.weight": (64,),
        "lm_head.weight": (VOCABULARY, 64),
    }


NO_LOGITS = "transformers does not build it"

RECIPES = {
    "baichuan": Recipe(
        "BaichuanForCausalLM",
        CONFIG,
        shapes=shapes(2),
        raw_config=True,
        no_logits=NO_LOGITS,
        warns=("with 2 it knows no positions",),
        dtype="F16",
    ),
    "baichuan-7b": Recipe(
        "BaiChuanForCausalLM",
        {**CONFIG, "architectures": ["BaiChuanForCausalLM"], "num_hidden_layers": 32},
        shapes=shapes(32),
        raw_config=True,
        no_logits=NO_LOGITS,
    ),
}
