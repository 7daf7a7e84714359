"""Phi 1, 1.5 and 2: a part of each head is roped, attention runs beside the MLP, and everything has a bias."""

from collections.abc import Iterable

from ggufkit.architectures._blocks import BODY, LAYERS, require_activation
from ggufkit.architectures._rope import rope, rotary_dimensions
from ggufkit.architectures._sizes import Config
from ggufkit.architectures._spec import ArchSpec, MetadataTable, TensorTable, Vocabulary, blocks
from ggufkit.errors import CheckpointError

TENSORS: TensorTable = {
    "model.embed_tokens": "token_embd",
    "model.final_layernorm": "output_norm",
    "lm_head": "output",
    **blocks(
        LAYERS,
        {
            "input_layernorm": "attn_norm",
            "self_attn.q_proj": "attn_q",
            "self_attn.k_proj": "attn_k",
            "self_attn.v_proj": "attn_v",
            "self_attn.dense": "attn_output",
            "mlp.fc1": "ffn_up",
            "mlp.fc2": "ffn_down",
        },
    ),
}
SIZES: MetadataTable = {
    "attention.head_count_kv": "kv_heads",
    "attention.layer_norm_epsilon": "layer_norm_eps",
    "rope.dimension_count": rotary_dimensions,
    # llama.cpp's default is written by nobody; another base must not be lost.
    "rope.freq_base": lambda config: base if (base := rope(config)["rope_theta"]) != 10000.0 else None,
}


def remarks(config: Config) -> Iterable[str]:
    """Refuse another activation, norms of q and k, or a feed-forward size that llama.cpp does not take."""
    require_activation(config, "gelu_new")
    if config.get("qk_layernorm"):
        raise CheckpointError("config.json: qk_layernorm is true; llama.cpp's Phi 2 norms neither q nor k")
    return ()


PHI2 = ArchSpec(
    name="phi2",
    hf_architectures=("PhiForCausalLM",),
    metadata=(BODY, SIZES),
    tensors=(TENSORS,),
    biases="output_norm output attn_norm attn_q attn_k attn_v attn_output ffn_up ffn_down",
    ropes=("partial",),
    defaults={
        "phi": {
            "rope_theta": 10000.0,
            "partial_rotary_factor": 0.5,
            "layer_norm_eps": 1e-5,
            "max_position_embeddings": 2048,
        }
    },
    vocabulary=Vocabulary.PHI,
    remarks=remarks,
)

SPECS = (PHI2,)
