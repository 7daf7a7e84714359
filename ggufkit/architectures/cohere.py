"""Cohere's Command: attention and feed-forward side by side behind one norm; in the second, rope in windows only."""

from collections.abc import Iterable

from ggufkit.architectures._blocks import ATTENTION, GATED_MLP, LAYERS, OPTIONAL_QKV_BIASES, require, require_activation
from ggufkit.architectures._decoders import (
    LAYER_NORM_DECODER,
    SQUARE,
    VOCABULARY_SIZE,
    require_sliding,
    sliding_pattern,
)
from ggufkit.architectures._sizes import Config
from ggufkit.architectures._spec import ArchSpec, MetadataTable, TensorTable, Vocabulary, blocks
from ggufkit.errors import CheckpointError

ENDS: TensorTable = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": None}
NORM = blocks(LAYERS, {"input_layernorm": "attn_norm"})
HEAD_NORMS = blocks(LAYERS, {"self_attn.q_norm": "attn_q_norm?", "self_attn.k_norm": "attn_k_norm?"})
SCALED: MetadataTable = {
    "logit_scale": "logit_scale",
    "rope.scaling.type": lambda _: "none",  # as llama.cpp's converter says
}
LONGER: MetadataTable = {
    # Command R's config tells in model_max_length for which context it was trained
    "context_length": lambda c: c.get("model_max_length") or c["max_position_embeddings"],
}
WINDOWS: MetadataTable = {
    "attention.sliding_window": "sliding_window",
    "attention.sliding_window_pattern": lambda c: None if _pattern(c) == _usual(c, 4) else _pattern(c),
    "rope.dimension_count": "head",
}
DEFAULTS = {
    "vocab_size": 256000,
    "hidden_size": 8192,
    "intermediate_size": 22528,
    "logit_scale": 0.0625,
    "num_hidden_layers": 40,
    "num_attention_heads": 64,
    "max_position_embeddings": 8192,
    "layer_norm_eps": 1e-5,
    "tie_word_embeddings": True,
}
_LAYERS_WITH_HEAD_NORMS = 64  # from as many on llama.cpp loads them (src/models/command-r.cpp)


def _usual(config: Config, period: int) -> list[bool]:
    return [(block + 1) % period != 0 for block in range(config["layers"])]


def _pattern(config: Config) -> list[bool]:
    return sliding_pattern(config) or _usual(config, config.get("sliding_window_pattern") or 4)


def remarks(config: Config) -> Iterable[str]:
    """Refuse another activation, an output of its own, head norms where llama.cpp looks for none."""
    require_activation(config, "silu")
    require(config, "llama.cpp's Command has its output tied to the embeddings", tie_word_embeddings=True)
    if bool(config.get("use_qk_norm")) != (config["layers"] >= _LAYERS_WITH_HEAD_NORMS):
        raise CheckpointError(
            f"config.json: use_qk_norm is {bool(config.get('use_qk_norm')).__str__().lower()} with "
            f"{config['layers']} layers; llama.cpp norms q and k from {_LAYERS_WITH_HEAD_NORMS} layers on",
            hint="no GGUF key expresses this; llama.cpp would not load the model",
        )
    return ()


def windowed_remarks(config: Config) -> Iterable[str]:
    """Refuse another activation, an output of its own, and layers of which none slides."""
    require_activation(config, "silu")
    require_sliding(config, _pattern(config))
    require(config, "llama.cpp's Command has its output tied to the embeddings", tie_word_embeddings=True)
    return ()


COMMAND_R = ArchSpec(
    name="command-r",
    hf_architectures=("CohereForCausalLM",),
    metadata=(LAYER_NORM_DECODER, SCALED, LONGER),
    tensors=(ENDS, NORM, HEAD_NORMS, ATTENTION, GATED_MLP),
    defaults={"cohere": {**DEFAULTS, "rope_theta": 500000.0}},
    ropes=(),
    biases=OPTIONAL_QKV_BIASES,
    shapes={**SQUARE, "attn_q_norm": "heads head", "attn_k_norm": "kv_heads head"},
    vocabulary=Vocabulary.BYTE_LEVEL,
    remarks=remarks,
)

COHERE2 = ArchSpec(
    name="cohere2",
    hf_architectures=("Cohere2ForCausalLM",),
    metadata=(LAYER_NORM_DECODER, SCALED, WINDOWS, VOCABULARY_SIZE),
    tensors=(ENDS, NORM, ATTENTION, GATED_MLP),
    defaults={"cohere2": {**DEFAULTS, "rope_theta": 10000.0, "sliding_window": 4096}},
    ropes=(),
    biases=OPTIONAL_QKV_BIASES,
    shapes=SQUARE,
    vocabulary=Vocabulary.BYTE_LEVEL,
    remarks=windowed_remarks,
)

SPECS = (COMMAND_R, COHERE2)
