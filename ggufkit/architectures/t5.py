"""T5, MT5 and UMT5: an encoder, and a decoder that also looks at what the encoder saw; distances, not positions."""

import dataclasses
from collections.abc import Iterable

from ggufkit.architectures._blocks import require
from ggufkit.architectures._encoders import POOLING, modules_left_out
from ggufkit.architectures._sizes import Config
from ggufkit.architectures._spec import ArchSpec, MetadataTable, TensorTable, Vocabulary, blocks, maybe, to
from ggufkit.architectures._state_ops import Scale
from ggufkit.errors import CheckpointError


def attention(layer: str, target: str) -> TensorTable:
    """Name the parts of one attention, which differ from place to place only in what goes before."""
    return {
        **{f"{layer}.{part}": f"{target}_{part}" for part in "qkvo"},
        f"{layer}.relative_attention_bias": f"{target}_rel_b" + "?" * (target != "attn"),
    }


def feed_forward(layer: str) -> TensorTable:
    """Name the parts of the feed-forward: wi alone where it has no gate, else wi_0 and wi_1."""
    parts = {"wi": "ffn_up", "wi_0": "ffn_gate", "wi_1": "ffn_up", "wo": "ffn_down"}
    return {
        f"{layer}.layer_norm": "ffn_norm",
        **{f"{layer}.DenseReluDense.{part}": target for part, target in parts.items()},
    }


SELF_ATTENTION: TensorTable = {"layer.0.layer_norm": "attn_norm", **attention("layer.0.SelfAttention", "attn")}
ENCODER: TensorTable = {
    "shared": "token_embd",
    "encoder.final_layer_norm": "enc.output_norm",
    **blocks("encoder.block", {**SELF_ATTENTION, **feed_forward("layer.1")}, stack="enc.blk"),
}
CROSS_ATTENTION: TensorTable = {
    "layer.1.layer_norm": "cross_attn_norm",
    **attention("layer.1.EncDecAttention", "cross_attn"),
}
DECODER: TensorTable = {
    "decoder.final_layer_norm": to("dec.output_norm", op=Scale("output_multiplier")),
    "lm_head": "output?",
    **blocks("decoder.block", {**SELF_ATTENTION, **CROSS_ATTENTION, **feed_forward("layer.2")}, stack="dec.blk"),
}
SHAPES = {
    **{f"attn_{part}": "heads*head hidden" for part in "qkv"},
    "attn_o": "hidden heads*head",
    "attn_rel_b": "relative_attention_num_buckets heads",
    "enc.output_norm": "hidden",
}
CROSS_SHAPES = {
    **{name.replace("attn", "cross_attn"): shape for name, shape in SHAPES.items() if name.startswith("attn")},
    "cross_attn_norm": "hidden",
    "dec.output_norm": "hidden",
}
METADATA: MetadataTable = {
    "block_count": "num_hidden_layers",
    "context_length": lambda c: c.get("n_positions") or 512,  # no limit of the model: as llama.cpp's converter
    "embedding_length": "hidden_size",
    "feed_forward_length": "ff",
    "attention.head_count": "num_attention_heads",
    "attention.key_length": "head",
    "attention.value_length": "head",
    "attention.layer_norm_epsilon": "layer_norm_eps",
    "attention.layer_norm_rms_epsilon": "layer_norm_eps",
    "attention.relative_buckets_count": "relative_attention_num_buckets",
}
DECODER_METADATA: MetadataTable = {
    "decoder_block_count": "decoder_layers",
    "decoder_start_token_id": maybe("decoder_start_token_id", "pad_token_id"),
}
COMMON = {
    "d_model": 512,
    "d_kv": 64,
    "layer_norm_epsilon": 1e-6,
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
    "pad_token_id": 0,
    "tie_word_embeddings": True,
}
GATED = {**COMMON, "d_ff": 1024, "num_layers": 8, "num_heads": 6, "feed_forward_proj": "gated-gelu"}
DEFAULTS = {
    "t5": {**COMMON, "d_ff": 2048, "num_layers": 6, "num_heads": 8, "feed_forward_proj": "relu"},
    "mt5": GATED,
    "umt5": GATED,
}


def output_multiplier(config: Config) -> float:
    """Say what the decoder's output is multiplied by, which llama.cpp does not do: its last norm's weight takes it.

    The first T5s scaled by the width's square root; later ones say so by an output that is not tied. UMT5 always does.
    """
    kind = config.get("model_type")
    if kind == "mt5" or (kind != "umt5" and not config.get("scale_decoder_outputs", config["tie_word_embeddings"])):
        return 1.0
    return float(config["hidden_size"] ** -0.5)


def kinds(config: Config, block: int) -> str:
    """Say whether a feed-forward is gated, and whether a block has a table of distances: UMT5's all have."""
    gate = "gated" if config["feed_forward_proj"].startswith("gated") else "plain"
    return f"{gate} {'first' if block == 0 or config.get('model_type') == 'umt5' else 'later'}"


def remarks(config: Config) -> Iterable[str]:
    """Refuse other activations, another distance beyond which all are one, or a decoder longer than the encoder."""
    if config["feed_forward_proj"] != "relu":
        require(config, "llama.cpp computes 'relu' or 'gated-gelu'", feed_forward_proj="gated-gelu")
    require(config, "llama.cpp has it at 128", relative_attention_max_distance=128)
    if (decoder := config.get("decoder_layers") or 0) > config["layers"]:
        raise CheckpointError(
            f"config.json: the decoder has {decoder} layers, the encoder {config['layers']}; llama.cpp allows no more"
        )
    yield from modules_left_out(config)


T5_ENCODER = ArchSpec(
    name="t5encoder",
    hf_architectures=("T5EncoderModel", "MT5EncoderModel", "UMT5EncoderModel"),
    metadata=(METADATA, POOLING),
    tensors=(ENCODER,),
    kinds=kinds,
    kind_of={"ffn_gate": "gated", "attn_rel_b": "first"},
    copies={"encoder.embed_tokens": "shared", "decoder.embed_tokens": "shared"},
    sizes={"output_multiplier": output_multiplier},
    shapes=SHAPES,
    defaults=DEFAULTS,
    vocabulary=Vocabulary.T5,
    remarks=remarks,
)
T5 = dataclasses.replace(
    T5_ENCODER,
    name="t5",
    hf_architectures=(
        "T5ForConditionalGeneration",
        "T5WithLMHeadModel",
        "MT5ForConditionalGeneration",
        "UMT5ForConditionalGeneration",
        "UMT5Model",
    ),
    metadata=(METADATA, DECODER_METADATA),
    tensors=(ENCODER, DECODER),
    sizes={
        "output_multiplier": output_multiplier,
        "decoder_layers": lambda c: c.get("num_decoder_layers") or c["num_hidden_layers"],
    },
    shapes={**SHAPES, **CROSS_SHAPES},
)

SPECS = (T5_ENCODER, T5)
