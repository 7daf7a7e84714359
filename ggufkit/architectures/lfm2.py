"""LFM 2: short convolutions with gates before and after, and attention with normed heads in some of the blocks."""

from collections.abc import Iterable

from ggufkit.architectures._blocks import BODY, LAYERS, RMS_NORM
from ggufkit.architectures._ops import Squeeze
from ggufkit.architectures._rope import ROPE
from ggufkit.architectures._sizes import Config
from ggufkit.architectures._spec import ArchSpec, MetadataTable, TensorTable, Vocabulary, blocks, to
from ggufkit.architectures._states import heads_by_block, kind, require_both_kinds
from ggufkit.errors import CheckpointError

TENSORS: TensorTable = {
    "model.embed_tokens": "token_embd",
    "model.embedding_norm": "token_embd_norm",  # it norms the output, whatever its names say
    "lm_head": "output?",
    **blocks(
        LAYERS,
        {
            "operator_norm": "attn_norm",
            "conv.conv": to("shortconv.conv", op=Squeeze()),
            "conv.in_proj": "shortconv.in_proj",
            "conv.out_proj": "shortconv.out_proj",
            "self_attn.q_proj": "attn_q",
            "self_attn.k_proj": "attn_k",
            "self_attn.v_proj": "attn_v",
            "self_attn.out_proj": "attn_output",
            "self_attn.q_layernorm": "attn_q_norm",
            "self_attn.k_layernorm": "attn_k_norm",
            "ffn_norm": "ffn_norm",
        },
    ),
}
GATED_MLP = blocks(LAYERS, {"feed_forward.w1": "ffn_gate", "feed_forward.w3": "ffn_up", "feed_forward.w2": "ffn_down"})
SIZES: MetadataTable = {
    "vocab_size": "vocab_size",
    "attention.head_count_kv": heads_by_block,
    "shortconv.l_cache": "conv_L_cache",
}
SHAPES = {
    "shortconv.conv": "hidden conv_L_cache",
    "shortconv.in_proj": "3*hidden hidden",
    "shortconv.out_proj": "hidden hidden",
}


def width(config: Config) -> int:
    """Work out the feed-forward width: two thirds of what is given, times a factor, up to a multiple, if so told."""
    given = int(config.get("block_ff_dim") or config["intermediate_size"])
    if not config["block_auto_adjust_ff_dim"]:
        return given
    given = int(2 * given / 3)
    if (factor := config.get("block_ffn_dim_multiplier")) is not None:
        given = int(factor * given)
    multiple = int(config["block_multiple_of"])
    return multiple * -(-given // multiple)


def block_kinds(config: Config) -> list[str]:
    """Say of each block whether it attends: by the list of types, or of attending blocks; without either, all do."""
    types = config.get("layer_types")
    if types is None:
        attending = config.get("full_attn_idxs")
        attending = range(config["layers"]) if attending is None else attending
        types = ["full_attention" if block in attending else "conv" for block in range(config["layers"])]
    if len(types) != config["layers"] or not set(types) <= {"full_attention", "conv"}:
        raise CheckpointError(
            f"config.json: layer_types is {types!r}, expected full_attention or conv for each of {config['layers']}"
        )
    return ["attention" if name == "full_attention" else "recurrent" for name in types]


def remarks(config: Config) -> Iterable[str]:
    """Refuse what llama.cpp aborts on."""
    if config["conv_L_cache"] < 2:
        raise CheckpointError(f"config.json: conv_L_cache is {config['conv_L_cache']}; llama.cpp wants at least 2")
    require_both_kinds(config)
    return ()


LFM2 = ArchSpec(
    name="lfm2",
    hf_architectures=("Lfm2ForCausalLM", "LFM2ForCausalLM"),
    metadata=(BODY, RMS_NORM, ROPE, SIZES),
    tensors=(TENSORS, GATED_MLP),
    kinds=kind,
    sizes={
        "ff": width,
        "head": lambda c: c["hidden_size"] // c["num_attention_heads"],
        "block_kinds": block_kinds,
    },
    shapes=SHAPES,
    spellings={"tie_word_embeddings": ("tie_embedding",), "rope_theta": ("theta",)},
    defaults={
        "lfm2": {
            "rope_theta": 1000000.0,
            "norm_eps": 1e-5,
            "max_position_embeddings": 128000,
            "num_key_value_heads": 8,
            "tie_word_embeddings": True,
            "conv_L_cache": 3,
            "block_multiple_of": 256,
            "block_ffn_dim_multiplier": 1.0,
            "block_auto_adjust_ff_dim": True,
        }
    },
    vocabulary=Vocabulary.BYTE_LEVEL,
    remarks=remarks,
)

SPECS = (LFM2,)
