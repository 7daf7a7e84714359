"""EuroBert: shared key heads, another base of rope, and the head that llama.cpp has not."""

from recipes._recipe import VOCABULARY, Recipe
from recipes.bert import ENCODER, NO_CLASS


def config(**changes: object) -> dict[str, object]:
    return {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": 128,
        "vocab_size": VOCABULARY,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 0,
        "mask_token_id": 2,
        **changes,
    }


LATE = "it refuses the late pooling of the head, which it drops"
RECIPES = {
    "eurobert": Recipe(
        "EuroBertModel",
        config(rope_parameters={"rope_type": "default", "rope_theta": 250000.0}, classifier_pooling="mean"),
        no_logits=ENCODER,
    ),
    "eurobert-grouped": Recipe(
        "EuroBertModel", config(num_key_value_heads=2, rms_norm_eps=1e-6), no_logits=ENCODER, no_golden=LATE
    ),
    # as released: written by transformers 4
    "eurobert-released": Recipe(
        "EuroBertModel",
        config(num_key_value_heads=1),
        extra_config={
            "rope_parameters": None,
            "rope_theta": 250000,
            "rope_scaling": None,
            "clf_pooling": "late",
            "classifier_pooling": None,
            "auto_map": {"AutoModel": "modeling_eurobert.EuroBertModel"},
            "use_cache": False,
        },
        no_logits=ENCODER,
        no_golden=LATE,
    ),
    "eurobert-labels": Recipe(
        "EuroBertForSequenceClassification",
        config(num_labels=3),
        no_logits=ENCODER,
        no_golden=NO_CLASS,
        warns=("no classification head of a EuroBert",),
    ),
    "eurobert-predictions": Recipe("EuroBertForMaskedLM", config(), no_logits=ENCODER, no_golden=NO_CLASS),
}
