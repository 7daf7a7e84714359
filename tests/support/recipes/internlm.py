"""InternLM 2."""

from recipes._recipe import VOCABULARY, Recipe, decoder

CONFIG = {
    "architectures": ["InternLM2ForCausalLM"],
    "model_type": "internlm2",
    "hidden_act": "silu",
    "bias": False,
    **decoder(num_hidden_layers=2),
    "rms_norm_eps": 1e-5,
    "rope_theta": 1000000,
    "rope_scaling": None,
    "tie_word_embeddings": False,
}


def shapes(groups: int) -> dict[str, tuple[int, ...]]:
    block = {
        "attention_norm.weight": (64,),
        "attention.wqkv.weight": ((4 + 2 * groups) * 16, 64),
        "attention.wo.weight": (64, 64),
        "ffn_norm.weight": (64,),
        "feed_forward.w1.weight": (96, 64),
        "feed_forward.w2.weight": (64, 96),
        "feed_forward.w3.weight": (96, 64),
    }
    return {
        "model.tok_embeddings.weight": (VOCABULARY, 64),
        **{f"model.layers.{b}.{name}": shape for b in range(2) for name, shape in block.items()},
        "model.norm.weight": (64,),
        "output.weight": (VOCABULARY, 64),
    }


NO_LOGITS = "transformers does not build it"

RECIPES = {
    "internlm2": Recipe("InternLM2ForCausalLM", CONFIG, shapes=shapes(2), raw_config=True, no_logits=NO_LOGITS),
    "internlm2-dynamic": Recipe(
        "InternLM2ForCausalLM",
        {**CONFIG, "num_key_value_heads": 4, "rope_scaling": {"type": "dynamic", "factor": 2.0}},
        shapes=shapes(4),
        raw_config=True,
        no_logits=NO_LOGITS,
        dtype="F16",
    ),
}
