"""MPT."""

from recipes._recipe import VOCABULARY, Recipe

RELEASED = {"architectures": ["MPTForCausalLM"]}  # transformers' own name is unknown to llama.cpp


def settings(**changes):
    return {"d_model": 64, "n_heads": 4, "n_layers": 3, "max_seq_len": 512, "vocab_size": VOCABULARY, **changes}


RECIPES = {
    "mpt": Recipe("MptForCausalLM", settings(), extra_config=RELEASED),
    "mpt-clipped": Recipe(
        "MptForCausalLM",
        settings(
            d_model=96,
            n_heads=6,
            n_layers=2,
            attn_config={"clip_qkv": 0.5},
            layer_norm_epsilon=1e-3,
            tie_word_embeddings=False,
        ),
        extra_config=RELEASED,
        explained={"mpt.attention.layer_norm_epsilon": "llama.cpp's converter writes 1e-5 whatever the config says"},
    ),
    # Positions are learned where there is no ALiBi; transformers builds neither.
    "mpt-positions": Recipe(
        "MptForCausalLM",
        settings(attn_config={"alibi": False}),
        extra_config=RELEASED,
        alter=lambda shapes: {**shapes, "transformer.wpe.weight": (512, 64)},
        no_logits="transformers always computes ALiBi",
    ),
    "mpt-transformers": Recipe(
        "MptForCausalLM", settings(), no_golden="llama.cpp's converter does not know transformers' name of the class"
    ),
}
