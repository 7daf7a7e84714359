"""DistilBert: a Bert without segments, under names of its own."""

import dataclasses
from collections.abc import Iterable

from ggufkit.architectures._blocks import BODY
from ggufkit.architectures._encoders import ENCODER, SIZES, dropped
from ggufkit.architectures._sizes import Config
from ggufkit.architectures._spec import blocks
from ggufkit.architectures.bert import BERT, BIASES, DEFAULTS, EMBEDDINGS, remarks

OWN_LAYERS = blocks(
    "transformer.layer",
    {
        "attention.q_lin": "attn_q",
        "attention.k_lin": "attn_k",
        "attention.v_lin": "attn_v",
        "attention.out_lin": "attn_output",
        "sa_layer_norm": "attn_output_norm",
        "ffn.lin1": "ffn_up",
        "ffn.lin2": "ffn_down",
        "output_layer_norm": "layer_output_norm",
    },
)
OWN_EMBEDDINGS = {key: entry for key, entry in EMBEDDINGS.items() if entry != "token_types"}
OWN_DEFAULTS = {
    **{key: value for key, value in DEFAULTS.items() if key.startswith(("max", "hidden_size", "num_attention"))},
    "num_hidden_layers": 6,
    "hidden_dim": 3072,
}
DISTILBERT = dataclasses.replace(
    BERT,
    hf_architectures=("DistilBertModel", "DistilBertForMaskedLM"),
    tensors=(OWN_EMBEDDINGS, OWN_LAYERS, dropped("vocab_transform", "vocab_layer_norm", "vocab_projector")),
    # its norms' epsilon is a constant of the code, and there are no segments
    metadata=(BODY, {"attention.layer_norm_epsilon": lambda c: 1e-12}, ENCODER),  # noqa: ARG005 - a constant
    spellings={"hidden_size": ("dim",)},
    sizes={**SIZES, "ff": "hidden_dim"},
    defaults={"distilbert": OWN_DEFAULTS},
)


def classifier_remarks(config: Config) -> Iterable[str]:
    """Say that the scores differ."""
    yield from remarks(config)
    yield "llama.cpp's classification head has a tanh where this model has a ReLU: its scores differ"


CLASSIFIER = dataclasses.replace(
    DISTILBERT,
    hf_architectures=("DistilBertForSequenceClassification",),
    tensors=(OWN_EMBEDDINGS, OWN_LAYERS, {"pre_classifier": "cls", "classifier": "cls.output"}),
    biases=f"{BIASES} cls cls.output",
    remarks=classifier_remarks,
)

SPECS = (DISTILBERT, CLASSIFIER)
