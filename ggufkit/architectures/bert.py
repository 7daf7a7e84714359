"""Bert: norms after attention and after the feed-forward, positions and segments learned."""

import dataclasses
from collections.abc import Iterable

from ggufkit.architectures._blocks import BODY, LAYER_NORM
from ggufkit.architectures._encoders import ENCODER, SIZES, dropped, modules_left_out, require_encoder
from ggufkit.architectures._sizes import Config
from ggufkit.architectures._spec import ArchSpec, TensorTable, Vocabulary, blocks

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

SPECS = (BERT, BERT_CLASSIFIER)
