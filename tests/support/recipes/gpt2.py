"""GPT-2 and GPT-BigCode."""

from recipes._recipe import VOCABULARY, Recipe

WIDTH = "llama.cpp's converter takes 4 x hidden for granted, and its file does not load"


def settings(**changes):
    return {"n_embd": 64, "n_layer": 3, "n_head": 4, "n_positions": 128, "vocab_size": VOCABULARY, **changes}


RECIPES = {
    # llama.cpp's converter wants n_ctx, which transformers 5 no longer saves.
    "gpt2": Recipe("GPT2LMHeadModel", settings(), extra_config={"n_ctx": 128}, dtype="F32"),
    "gpt2-wide": Recipe(
        "GPT2LMHeadModel",
        settings(n_inner=160, n_head=8, layer_norm_epsilon=1e-3, tie_word_embeddings=False),
        extra_config={"n_ctx": 128},
        explained={"gpt2.feed_forward_length": WIDTH},
        dtype="F16",
    ),
    # The first checkpoint on the hub: no prefix, causal masks as buffers.
    "gpt2-bare": Recipe(
        "GPT2LMHeadModel",
        settings(n_layer=2),
        extra_config={"n_ctx": 128},
        alter=lambda shapes: {
            **{name.removeprefix("transformer."): shape for name, shape in shapes.items()},
            **{f"h.{block}.attn.bias": (1, 1, 128, 128) for block in range(2)},
        },
        no_golden="llama.cpp's converter fails on the masks: 'Can not map tensor'",
    ),
    "bigcode": Recipe("GPTBigCodeForCausalLM", settings()),
    "bigcode-every-head": Recipe(
        "GPTBigCodeForCausalLM",
        settings(multi_query=False, n_inner=128, activation_function="gelu", tie_word_embeddings=False),
        no_golden="llama.cpp's converter knows one key head only",
    ),
}
