"""Tables that decoders outside Llama's kin share: LayerNorm with biases, rope bases that GGUF may omit, windows."""

from collections.abc import Iterable

from ggufkit.architectures._blocks import BODY, DECODER, LAYER_NORM, LAYERS
from ggufkit.architectures._head_ops import UndoRopePermute
from ggufkit.architectures._rope import ROPE, is_per_layer, rope, rotary_dimensions
from ggufkit.architectures._sizes import Config
from ggufkit.architectures._spec import MetadataTable, blocks, to
from ggufkit.errors import CheckpointError

# What every architecture must say.
OUTLINE: MetadataTable = {
    key: BODY[key]
    for key in ("block_count", "context_length", "embedding_length", "feed_forward_length", "attention.head_count")
}
# DECODER with LayerNorm in place of RMSNorm.
LAYER_NORM_DECODER: MetadataTable = {
    **{key: source for key, source in DECODER.items() if key != "attention.layer_norm_rms_epsilon"},
    **LAYER_NORM,
}
# llama.cpp's converter leaves the base out for some architectures; llama.cpp then takes 10000.
ROPE_UNLESS_USUAL: MetadataTable = {
    **ROPE,
    "rope.freq_base": lambda config: base if (base := rope(config)["rope_theta"]) != 10000.0 else None,
}
ROTARY: MetadataTable = {"rope.dimension_count": rotary_dimensions}
VOCABULARY_SIZE: MetadataTable = {"vocab_size": "vocab"}
CHATGLM_SIZES: MetadataTable = {
    **OUTLINE,
    "attention.head_count_kv": "kv_heads",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "rope.freq_base": lambda c: rope(c)["rope_theta"],
    **ROTARY,
}
LLAMA_SIZES: MetadataTable = {**VOCABULARY_SIZE, "rope.dimension_count": "head"}

# q and k as ggml's NORM rope wants them.
PERMUTED_QK = blocks(
    LAYERS,
    {
        "self_attn.q_proj": to("attn_q", op=UndoRopePermute("heads")),
        "self_attn.k_proj": to("attn_k", op=UndoRopePermute("kv_heads")),
    },
)
# Norms behind attention and feed-forward, before what goes around them is added.
POST_NORMS = blocks(
    LAYERS, {"post_attention_layernorm": "post_attention_norm", "post_feedforward_layernorm": "post_ffw_norm"}
)

# Where llama.cpp knows no head size but hidden_size / heads.
SQUARE = {"attn_q": "hidden hidden", "attn_output": "hidden hidden"}

# Names of one function, which ggml computes by tanh and looks up in a table of float16.
GELU = ("gelu_pytorch_tanh", "gelu_new", "gelu_fast", "gelu")


def sliding_pattern(config: Config) -> list[bool] | None:
    """Tell of each layer whether its attention slides, where the config lists them."""
    types = config.get("layer_types")
    return None if types is None else [kind == "sliding_attention" for kind in types]


def require_sliding(config: Config, pattern: list[bool]) -> None:
    """Refuse a model of an architecture with windows in which no layer slides: llama.cpp aborts on it.

    Raises:
        CheckpointError: no layer slides.
    """
    if not any(pattern):
        raise CheckpointError(
            f"config.json: none of the {config['layers']} layers has sliding attention; llama.cpp expects some",
            hint="llama.cpp would abort as it loads the model",
        )


def one_rope_base(config: Config) -> Iterable[str]:
    """Refuse a rope of its own for sliding layers, where llama.cpp has one base, and scales full attention only.

    Raises:
        CheckpointError: sliding layers have a rope of their own.
    """
    if not is_per_layer(config.get("rope_parameters") or {}):
        return ()  # transformers 4 scales full attention alone, and has one base
    full, sliding = rope(config), rope(config, "sliding_attention")
    if (full["rope_theta"], "default") != (sliding["rope_theta"], sliding["rope_type"]):
        raise CheckpointError(
            f"config.json: sliding attention is roped by {sliding}, full attention by {full}; "
            "llama.cpp knows one base here, and scaling for full attention only",
            hint="no GGUF key expresses this; the model's answers would be wrong",
        )
    return ()
