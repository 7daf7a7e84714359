"""BLOOM."""

from recipes._recipe import VOCABULARY, Recipe

UNSAID = {"bloom.context_length": "without seq_length llama.cpp's converter writes the hidden size"}

RECIPES = {
    "bloom": Recipe(
        "BloomForCausalLM",
        {"hidden_size": 64, "n_layer": 3, "n_head": 4, "vocab_size": VOCABULARY},
        explained=UNSAID,
    ),
    "bloom-heads": Recipe(
        "BloomForCausalLM",
        {"hidden_size": 96, "n_layer": 2, "n_head": 6, "vocab_size": VOCABULARY, "layer_norm_epsilon": 1e-3},
        # as released: other names, and no prefix before the tensors
        extra_config={"n_embed": 96, "hidden_size": None, "num_attention_heads": 6, "n_head": None, "seq_length": 256},
        raw_config=True,
        alter=lambda shapes: {name.removeprefix("transformer."): shape for name, shape in shapes.items()},
        no_logits="transformers reads no num_attention_heads beside n_head",
        dtype="F16",
    ),
    "bloom-odd-heads": Recipe(
        "BloomForCausalLM",
        {
            "hidden_size": 96,
            "n_layer": 2,
            "n_head": 6,
            "vocab_size": VOCABULARY,
            "layer_norm_epsilon": 1e-3,
            "tie_word_embeddings": False,
        },
        explained=UNSAID,
    ),
    "bloom-model": Recipe(
        "BloomModel",
        {"hidden_size": 32, "n_layer": 2, "n_head": 2, "vocab_size": VOCABULARY},
        explained=UNSAID,
    ),
}
