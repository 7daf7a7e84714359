"""Orion: Llama's tensors with LayerNorms, whose epsilon its config calls that of RMSNorms."""

from collections.abc import Iterable

from ggufkit.architectures._blocks import ATTENTION, EMBEDDINGS, GATED_MLP, PRE_NORMS, require_activation
from ggufkit.architectures._decoders import OUTLINE, ROPE_UNLESS_USUAL, SQUARE
from ggufkit.architectures._sizes import Config
from ggufkit.architectures._spec import ArchSpec, MetadataTable

SIZES: MetadataTable = {
    "attention.head_count_kv": "kv_heads",
    "attention.layer_norm_epsilon": "rms_norm_eps",
    "tensor_data_layout": lambda _: "Meta AI original pth",
}


def remarks(config: Config) -> Iterable[str]:
    """Refuse another activation."""
    require_activation(config, "silu")
    return ()


ORION = ArchSpec(
    name="orion",
    hf_architectures=("OrionForCausalLM",),
    metadata=(OUTLINE, SIZES, ROPE_UNLESS_USUAL),
    tensors=(EMBEDDINGS, PRE_NORMS, ATTENTION, GATED_MLP),
    needs_output=True,
    defaults={"orion": {"rope_theta": 10000.0, "rms_norm_eps": 1e-5}},
    spellings={"max_position_embeddings": ("max_sequence_length", "model_max_length")},
    biases="attn_norm ffn_norm output_norm",
    shapes=SQUARE,
    remarks=remarks,
)

SPECS = (ORION,)
