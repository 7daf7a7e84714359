"""XVERSE and openPangu Embedded."""

from recipes._recipe import VOCABULARY, Recipe, decoder
from recipes.minicpm import BLOCK

NO_LOGITS = "transformers does not build it"


def shapes(kv_rows: int, *, biased: bool = False) -> dict[str, tuple[int, ...]]:
    block = {**BLOCK, "self_attn.k_proj.weight": (kv_rows, 64), "self_attn.v_proj.weight": (kv_rows, 64)}
    biases = {
        "self_attn.q_proj.bias": (64,),
        "self_attn.k_proj.bias": (kv_rows,),
        "self_attn.v_proj.bias": (kv_rows,),
        "self_attn.o_proj.bias": (64,),
    }
    block |= biases if biased else {}
    return {
        "model.embed_tokens.weight": (VOCABULARY, 64),
        **{f"model.layers.{b}.{name}": shape for b in range(2) for name, shape in block.items()},
        "model.norm.weight": (64,),
        "lm_head.weight": (VOCABULARY, 64),
    }


RECIPES = {
    "xverse": Recipe(
        "XverseForCausalLM",
        {
            "architectures": ["XverseForCausalLM"],
            "model_type": "xverse",
            "hidden_act": "silu",
            **decoder(num_hidden_layers=2, num_key_value_heads=None),
            "rms_norm_eps": 1e-6,
            "tie_word_embeddings": False,
        },
        shapes=shapes(64),
        raw_config=True,
        no_logits=NO_LOGITS,
    ),
    "pangu-embedded": Recipe(
        "PanguEmbeddedForCausalLM",
        {
            "architectures": ["PanguEmbeddedForCausalLM"],
            "model_type": "PanguEmbedded",
            "hidden_act": "silu",
            "bias": True,
            **decoder(num_hidden_layers=2),
            "rms_norm_eps": 1e-5,
            "rope_theta": 16000000.0,
            "tie_word_embeddings": False,
        },
        shapes=shapes(32, biased=True),
        raw_config=True,
        no_logits=NO_LOGITS,
    ),
}
