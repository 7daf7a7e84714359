"""Roberta, XLM-Roberta and CamemBert: Berts whose first positions are never used, with heads of two layers."""

import dataclasses

from ggufkit.architectures._blocks import BODY, LAYER_NORM
from ggufkit.architectures._encoders import ENCODER, SIZES, dropped
from ggufkit.architectures._spec import to
from ggufkit.architectures._state_ops import SkipRows
from ggufkit.architectures.bert import BERT, BIASES, DEFAULTS, EMBEDDINGS, LAYERS, POOLER

NAMES = ("Roberta", "XLMRoberta", "Camembert")
# Positions count from the padding token's id plus one; what lies below is never used.
OWN_EMBEDDINGS = {**EMBEDDINGS, "embeddings.position_embeddings": to("position_embd", op=SkipRows("unused"))}
OWN_DEFAULTS = {**DEFAULTS, "pad_token_id": 1}
ROBERTA = dataclasses.replace(
    BERT,
    hf_architectures=tuple(f"{name}{task}" for name in NAMES for task in ("Model", "ForMaskedLM")),
    metadata=(BODY, LAYER_NORM, ENCODER, {"context_length": "positions"}),
    tensors=(
        OWN_EMBEDDINGS,
        LAYERS,
        POOLER,
        dropped("lm_head.bias", "lm_head.dense", "lm_head.layer_norm", "lm_head.decoder"),
    ),
    sizes={
        **SIZES,
        "unused": lambda c: 0 if c.get("pad_token_id") is None else c["pad_token_id"] + 1,
        "positions": lambda c: c["max_position_embeddings"] - c["unused"],
    },
    defaults=dict.fromkeys(("roberta", "xlm-roberta", "camembert"), OWN_DEFAULTS),
)
CLASSIFIER = dataclasses.replace(
    ROBERTA,
    hf_architectures=tuple(f"{name}ForSequenceClassification" for name in NAMES),
    tensors=(OWN_EMBEDDINGS, LAYERS, POOLER, {"classifier.dense": "cls", "classifier.out_proj": "cls.output"}),
    biases=f"{BIASES} cls cls.output",
)

SPECS = (ROBERTA, CLASSIFIER)
