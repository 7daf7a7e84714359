"""Bert, DistilBert, Roberta and their kin: heads, segments, offsets of positions, labels of all counts."""

from recipes._recipe import VOCABULARY, Recipe

ENCODER = "an encoder: test_encoders.py compares what it sees"
POOLER = {
    "cls.weight": "the pooler, which the head's weights were trained behind",
    "cls.bias": "the pooler's",
}
LABELS = {"num_labels": 3, "id2label": {0: "against", 1: "neither", 2: "for"}}
NO_CLASS = "it has no class of that name"


def bert(**changes: object) -> dict[str, object]:
    return {
        "hidden_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 96,
        "max_position_embeddings": 64,
        "vocab_size": VOCABULARY,
        **changes,
    }


def distil(**changes: object) -> dict[str, object]:
    return {
        "dim": 64,
        "n_layers": 3,
        "n_heads": 4,
        "hidden_dim": 96,
        "max_position_embeddings": 64,
        "vocab_size": VOCABULARY,
        **changes,
    }


def one(model: str, config: dict[str, object], **more: object) -> Recipe:
    return Recipe(model, config, no_logits=ENCODER, **more)


def old_norms(shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Name the norms' parts as Bert's first checkpoints do, and add what those store of no use."""
    renamed = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): shape
        for name, shape in shapes.items()
    }
    return {**renamed, "cls.seq_relationship.weight": (2, 64), "cls.seq_relationship.bias": (2,)}


TANH = ("has a tanh where this model has a ReLU",)
RECIPES = {
    "bert": one("BertModel", bert()),
    "bert-predictions": one(
        "BertForMaskedLM", bert(type_vocab_size=1, layer_norm_eps=1e-6, hidden_act="gelu_new", num_attention_heads=2)
    ),
    "bert-pretraining": one("BertForPreTraining", bert(num_hidden_layers=2), no_golden=NO_CLASS),
    "bert-of-2018": one("BertForMaskedLM", bert(num_hidden_layers=2), alter=old_norms),
    "bert-score": one("BertForSequenceClassification", bert(num_labels=1), explained=POOLER),
    "bert-yes-or-no": one(
        "BertForSequenceClassification", bert(num_labels=2), no_golden="it takes two unnamed labels for none"
    ),
    "bert-labels": one("BertForSequenceClassification", bert(**LABELS), explained=POOLER),
    "distilbert": one("DistilBertModel", distil()),
    "distilbert-predictions": one("DistilBertForMaskedLM", distil(n_heads=2, sinusoidal_pos_embds=True)),
    "distilbert-labels": one("DistilBertForSequenceClassification", distil(**LABELS), warns=TANH),
    "roberta": one("RobertaModel", bert(max_position_embeddings=66, type_vocab_size=1, layer_norm_eps=1e-5)),
    "roberta-padding-0": one(
        "RobertaModel", bert(max_position_embeddings=65, hidden_size=48, num_attention_heads=3, pad_token_id=0)
    ),
    "roberta-predictions": one("RobertaForMaskedLM", bert(max_position_embeddings=66), no_golden=NO_CLASS),
    "roberta-labels": one(
        "RobertaForSequenceClassification", bert(max_position_embeddings=66, type_vocab_size=1, **LABELS)
    ),
    "roberta-score": one("RobertaForSequenceClassification", bert(max_position_embeddings=70, num_labels=1)),
    "xlm-roberta": one(
        "XLMRobertaModel", bert(max_position_embeddings=66, type_vocab_size=1, hidden_size=96, layer_norm_eps=1e-5)
    ),
    "xlm-roberta-score": one(
        "XLMRobertaForSequenceClassification", bert(max_position_embeddings=66, type_vocab_size=1, num_labels=1)
    ),
    "xlm-roberta-predictions": one(
        "XLMRobertaForMaskedLM", bert(max_position_embeddings=66, num_hidden_layers=2), no_golden=NO_CLASS
    ),
    "camembert-predictions": one(
        "CamembertForMaskedLM", bert(max_position_embeddings=66, num_hidden_layers=2), no_golden=NO_CLASS
    ),
    "camembert-labels": one(
        "CamembertForSequenceClassification", bert(max_position_embeddings=66, **LABELS), no_golden=NO_CLASS
    ),
    "camembert": one(
        "CamembertModel",
        bert(max_position_embeddings=66, type_vocab_size=1, pad_token_id=1),
        no_golden="it takes the unused first positions for used ones",
    ),
}
