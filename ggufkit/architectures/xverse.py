"""Llama's tensors with habits of their own: XVERSE, and openPangu Embedded with biases, roped NEOX-style."""

from collections.abc import Iterable

from ggufkit.architectures._blocks import ATTENTION, DECODER, EMBEDDINGS, GATED_MLP, PRE_NORMS, require_activation
from ggufkit.architectures._decoders import LLAMA_SIZES, PERMUTED_QK, SQUARE
from ggufkit.architectures._sizes import Config
from ggufkit.architectures._spec import ArchSpec, MetadataTable, maybe
from ggufkit.errors import CheckpointError

XVERSE_SIZES: MetadataTable = {
    "attention.head_count_kv": maybe("num_key_value_heads"),
    "rope.freq_base": maybe("rope_theta"),  # silent, as released: 10000
    "tensor_data_layout": lambda _: "Meta AI original pth",
    "rope.dimension_count": "head",
}
HEAD_SIZES: MetadataTable = {"attention.key_length": "head", "attention.value_length": "head"}


def remarks(config: Config) -> Iterable[str]:
    """Refuse another activation."""
    require_activation(config, "silu")
    return ()


def every_head_remarks(config: Config) -> Iterable[str]:
    """Refuse another activation, and key heads fewer than query heads, which no XVERSE has."""
    if config["kv_heads"] != config["heads"]:
        raise CheckpointError("config.json: an XVERSE with fewer key heads than query heads is not known")
    return remarks(config)


XVERSE = ArchSpec(
    name="xverse",
    hf_architectures=("XverseForCausalLM",),
    metadata=(DECODER, XVERSE_SIZES),
    tensors=(EMBEDDINGS, PRE_NORMS, ATTENTION, GATED_MLP, PERMUTED_QK),
    needs_output=True,
    defaults={"xverse": {"rms_norm_eps": 1e-6, "max_position_embeddings": 8192}},
    ropes=(),
    shapes=SQUARE,
    remarks=every_head_remarks,
)

PANGU_EMBED = ArchSpec(
    name="pangu-embedded",
    hf_architectures=("PanguEmbeddedForCausalLM",),
    metadata=(DECODER, LLAMA_SIZES, HEAD_SIZES),
    tensors=(EMBEDDINGS, PRE_NORMS, ATTENTION, GATED_MLP),
    defaults={"PanguEmbedded": {"rope_theta": 10000.0, "rms_norm_eps": 1e-5, "max_position_embeddings": 32768}},
    biases="attn_q? attn_k? attn_v? attn_output",
    drops_tied_output=True,
    remarks=remarks,
)

SPECS = (XVERSE, PANGU_EMBED)
