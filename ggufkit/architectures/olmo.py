"""OLMo: norms without parameters (1); norms behind attention and feed-forward, and over all of q and of k (2, 3)."""

from collections.abc import Iterable

from ggufkit.architectures._blocks import (
    ATTENTION,
    DECODER,
    EMBEDDINGS,
    GATED_MLP,
    HEAD_NORMS,
    OPTIONAL_QKV_BIASES,
    require_activation,
)
from ggufkit.architectures._decoders import (
    LAYER_NORM_DECODER,
    PERMUTED_QK,
    POST_NORMS,
    SQUARE,
    one_rope_base,
    sliding_pattern,
)
from ggufkit.architectures._rope import rope
from ggufkit.architectures._sizes import Config
from ggufkit.architectures._spec import ArchSpec, MetadataTable, TensorTable, Vocabulary, maybe

NORMLESS_ENDS: TensorTable = {"model.embed_tokens": "token_embd", "lm_head": "output?"}
CLAMPED: MetadataTable = {"attention.clamp_kqv": maybe("clip_qkv")}
SLIDING: MetadataTable = {
    "attention.sliding_window": lambda c: c["sliding_window"] if _slides(c) else None,
    "attention.sliding_window_pattern": lambda c: _pattern(c) if _slides(c) else None,
    "rope.freq_base_swa": lambda c: rope(c, "sliding_attention")["rope_theta"] if _slides(c) else None,
}
DEFAULTS = {
    "vocab_size": 50304,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 2048,
    "rope_theta": 10000.0,
}


def _pattern(config: Config) -> list[bool]:
    return sliding_pattern(config) or [block % 4 != 3 for block in range(config["layers"])]


def _slides(config: Config) -> bool:
    """Tell whether any layer does: llama.cpp aborts on a window that none has."""
    return bool(config.get("sliding_window")) and any(_pattern(config))


def remarks(config: Config) -> Iterable[str]:
    """Refuse another activation, and a rope of its own for sliding layers."""
    require_activation(config, "silu")
    if _slides(config):
        one_rope_base(config)
    return ()


OLMO = ArchSpec(
    name="olmo",
    hf_architectures=("OlmoForCausalLM",),
    metadata=(LAYER_NORM_DECODER, CLAMPED),
    tensors=(NORMLESS_ENDS, ATTENTION, GATED_MLP, PERMUTED_QK),
    defaults={"olmo": {**DEFAULTS}},
    sizes={"layer_norm_eps": lambda _: 1e-5},  # OlmoLayerNorm's own
    shapes=SQUARE,
    vocabulary=Vocabulary.BYTE_LEVEL,
    remarks=remarks,
)

OLMO2 = ArchSpec(
    name="olmo2",
    hf_architectures=("Olmo2ForCausalLM", "Olmo3ForCausalLM"),
    metadata=(DECODER, SLIDING),
    tensors=(EMBEDDINGS, POST_NORMS, ATTENTION, HEAD_NORMS, GATED_MLP),
    needs_output=True,
    defaults={
        "olmo2": {**DEFAULTS, "rms_norm_eps": 1e-5},
        "olmo3": {**DEFAULTS, "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "sliding_window": 4096},
    },
    ropes=("linear", "yarn", "per-layer"),
    biases=OPTIONAL_QKV_BIASES,
    shapes={**SQUARE, "attn_q_norm": "heads*head", "attn_k_norm": "kv_heads*head"},
    vocabulary=Vocabulary.BYTE_LEVEL,
    remarks=remarks,
)

SPECS = (OLMO, OLMO2)
