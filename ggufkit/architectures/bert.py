"""Bert, DistilBert, Roberta and XLM-Roberta: norms after attention and after the feed-forward, positions learned."""

import dataclasses
from collections.abc import Iterable

from ggufkit.architectures._blocks import BODY, LAYER_NORM
from ggufkit.architectures._encoders import ENCODER, SIZES, dropped, modules_left_out, require_encoder
from ggufkit.architectures._sizes import Config
from ggufkit.architectures._spec import ArchSpec, TensorTable, Vocabulary, blocks, to
from ggufkit.architectures._state_ops import SkipRows

EMBEDDINGS: TensorTable = {
    "embeddings.word_embeddings": "token_embd",
    "embeddings.position_embeddings": "position_embd",
    "embeddings.token_type_embeddings": "token_types",
    "embeddings.LayerNorm": "token_embd_norm",
    "embeddings.position_ids": None,
}
LAYERS = blocks(
    "encoder.layer",
    {
        "attention.self.query": "attn_q",
        "attention.self.key": "attn_k",
        "attention.self.value": "attn_v",
        "attention.output.dense": "attn_output",
        "attention.output.LayerNorm": "attn_output_norm",
        "intermediate.dense": "ffn_up",
        "output.dense": "ffn_down",
        "output.LayerNorm": "layer_output_norm",
    },
)
POOLER = dropped("pooler.dense")  # only a classification head looks at it
PREDICTIONS = dropped(
    *(f"cls.predictions.{part}" for part in ("bias", "decoder", "transform.dense", "transform.LayerNorm")),
    "cls.seq_relationship",
)
BIASES = "token_embd_norm attn_q attn_k attn_v attn_output attn_output_norm ffn_up ffn_down layer_output_norm"
DEFAULTS = {
    "layer_norm_eps": 1e-12,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
}


def remarks(config: Config) -> Iterable[str]:
    """Refuse what no encoder of llama.cpp computes."""
    require_encoder(config)
    yield from modules_left_out(config)


BERT = ArchSpec(
    name="bert",
    hf_architectures=("BertModel", "BertForMaskedLM", "BertForPreTraining"),
    metadata=(BODY, LAYER_NORM, ENCODER),
    tensors=(EMBEDDINGS, LAYERS, POOLER, PREDICTIONS),
    biases=BIASES,
    sizes=SIZES,
    defaults={"bert": DEFAULTS},
    vocabulary=Vocabulary.BERT,
    remarks=remarks,
)

# What transformers calls the pooler is what llama.cpp does before a head: a dense layer and a tanh.
BERT_CLASSIFIER = dataclasses.replace(
    BERT,
    hf_architectures=("BertForSequenceClassification",),
    tensors=(EMBEDDINGS, LAYERS, {"pooler.dense": "cls", "classifier": "cls.output"}),
    biases=f"{BIASES} cls cls.output",
)

DISTIL_LAYERS = blocks(
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
DISTIL_EMBEDDINGS = {key: entry for key, entry in EMBEDDINGS.items() if entry != "token_types"}
DISTIL_DEFAULTS = {
    **{key: value for key, value in DEFAULTS.items() if key.startswith(("max", "hidden_size", "num_attention"))},
    "num_hidden_layers": 6,
    "hidden_dim": 3072,
}
DISTILBERT = dataclasses.replace(
    BERT,
    hf_architectures=("DistilBertModel", "DistilBertForMaskedLM"),
    tensors=(DISTIL_EMBEDDINGS, DISTIL_LAYERS, dropped("vocab_transform", "vocab_layer_norm", "vocab_projector")),
    # its norms' epsilon is a constant of the code, and there are no segments
    metadata=(BODY, {"attention.layer_norm_epsilon": lambda c: 1e-12}, ENCODER),  # noqa: ARG005 - a constant
    spellings={"hidden_size": ("dim",)},
    sizes={**SIZES, "ff": "hidden_dim"},
    defaults={"distilbert": DISTIL_DEFAULTS},
)


def classifier_remarks(config: Config) -> Iterable[str]:
    """Say that the scores differ."""
    require_encoder(config)
    yield "llama.cpp's classification head has a tanh where this model has a ReLU: its scores differ"


DISTILBERT_CLASSIFIER = dataclasses.replace(
    DISTILBERT,
    hf_architectures=("DistilBertForSequenceClassification",),
    tensors=(DISTIL_EMBEDDINGS, DISTIL_LAYERS, {"pre_classifier": "cls", "classifier": "cls.output"}),
    biases=f"{BIASES} cls cls.output",
    remarks=classifier_remarks,
)

# Positions count from the padding token's id plus one; what lies below is never used.
ROBERTA_EMBEDDINGS = {**EMBEDDINGS, "embeddings.position_embeddings": to("position_embd", op=SkipRows("unused"))}
ROBERTA_DEFAULTS = {**DEFAULTS, "pad_token_id": 1}
ROBERTA = dataclasses.replace(
    BERT,
    hf_architectures=(
        *(f"{name}Model" for name in ("Roberta", "XLMRoberta", "Camembert")),
        *(f"{name}ForMaskedLM" for name in ("Roberta", "XLMRoberta", "Camembert")),
    ),
    metadata=(BODY, LAYER_NORM, ENCODER, {"context_length": "positions"}),
    tensors=(
        ROBERTA_EMBEDDINGS,
        LAYERS,
        POOLER,
        dropped("lm_head.bias", "lm_head.dense", "lm_head.layer_norm", "lm_head.decoder"),
    ),
    sizes={
        **SIZES,
        "unused": lambda c: 0 if c.get("pad_token_id") is None else c["pad_token_id"] + 1,
        "positions": lambda c: c["max_position_embeddings"] - c["unused"],
    },
    defaults=dict.fromkeys(("roberta", "xlm-roberta", "camembert"), ROBERTA_DEFAULTS),
)
ROBERTA_CLASSIFIER = dataclasses.replace(
    ROBERTA,
    hf_architectures=tuple(f"{name}ForSequenceClassification" for name in ("Roberta", "XLMRoberta", "Camembert")),
    tensors=(ROBERTA_EMBEDDINGS, LAYERS, POOLER, {"classifier.dense": "cls", "classifier.out_proj": "cls.output"}),
    biases=f"{BIASES} cls cls.output",
)

SPECS = (BERT, BERT_CLASSIFIER, DISTILBERT, DISTILBERT_CLASSIFIER, ROBERTA, ROBERTA_CLASSIFIER)
