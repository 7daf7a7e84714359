"""ModernBert: windows of all sorts and where they are, ropes, activations, heads."""

from recipes._recipe import VOCABULARY, Recipe
from recipes.bert import ENCODER, LABELS

# Released configs have both spellings of the epsilon; transformers 5 writes one, which llama.cpp's converter misses.
EPSILON = {"modern-bert.attention.layer_norm_epsilon": "needed, and not written for want of layer_norm_eps"}
PATTERN = {"modern-bert.attention.sliding_window_pattern": "not written without global_attn_every_n_layers"}


def config(**changes: object) -> dict[str, object]:
    return {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "max_position_embeddings": 128,
        "vocab_size": VOCABULARY,
        "local_attention": 8,
        **dict.fromkeys(("pad_token_id", "bos_token_id", "cls_token_id"), 0),
        **dict.fromkeys(("eos_token_id", "sep_token_id"), 1),
        **changes,
    }


def one(settings: dict[str, object], model: str = "ModernBertModel", **more: object) -> Recipe:
    return Recipe(model, settings, no_logits=ENCODER, **{"explained": EPSILON, **more})


MIXED = ["full_attention", "sliding_attention", "sliding_attention", "full_attention", "full_attention"]
RECIPES = {
    "modernbert": one(config()),
    "modernbert-period": one(
        config(
            global_attn_every_n_layers=2,
            local_attention=16,
            norm_eps=1e-6,
            hidden_activation="silu",
            global_rope_theta=50000.0,
            local_rope_theta=1000.0,
        )
    ),
    # no period fits these; and one that only the list tells
    "modernbert-mixed": one(config(layer_types=MIXED, num_hidden_layers=5), explained={**EPSILON, **PATTERN}),
    "modernbert-fourth": one(
        config(layer_types=["full_attention", *["sliding_attention"] * 3, "full_attention"], num_hidden_layers=5),
        explained={**EPSILON, **PATTERN},
    ),
    "modernbert-wide": one(config(local_attention=128, num_attention_heads=2, num_hidden_layers=4)),
    "modernbert-no-windows": one(
        config(global_attn_every_n_layers=1, num_hidden_layers=2),
        explained={
            **EPSILON,
            **PATTERN,
            "modern-bert.attention.sliding_window": "no block has one, and llama.cpp aborts on that",
        },
    ),
    # as released by transformers 4
    "modernbert-released": one(
        config(),
        explained={},
        extra_config={
            "layer_types": None,
            "rope_parameters": None,
            "global_attn_every_n_layers": 3,
            "global_rope_theta": 160000.0,
            "local_rope_theta": 10000.0,
            "layer_norm_eps": 1e-05,
            "position_embedding_type": "absolute",
            "repad_logits_with_grad": False,
        },
    ),
    "modernbert-predictions": one(config(), "ModernBertForMaskedLM", no_golden="it stumbles over decoder.bias"),
    "modernbert-labels": one(config(**LABELS), "ModernBertForSequenceClassification"),
    "modernbert-mean": one(config(num_labels=1, classifier_pooling="mean"), "ModernBertForSequenceClassification"),
}
