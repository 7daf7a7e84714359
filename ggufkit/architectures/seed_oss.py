"""Seed-OSS: Llama with biases on q, k and v and a head size of its own, roped NEOX-style."""

from collections.abc import Iterable

from ggufkit.architectures._blocks import (
    ATTENTION,
    DECODER,
    EMBEDDINGS,
    GATED_MLP,
    LAYERS,
    OPTIONAL_QKV_BIASES,
    require_activation,
)
from ggufkit.architectures._sizes import Config
from ggufkit.architectures._spec import ArchSpec, Vocabulary, blocks

# llama.cpp calls the norm before the feed-forward by the name that others have behind attention.
NORMS = blocks(LAYERS, {"input_layernorm": "attn_norm", "post_attention_layernorm": "post_attention_norm"})


def remarks(config: Config) -> Iterable[str]:
    """Refuse another activation."""
    require_activation(config, "silu")
    return ()


SEED_OSS = ArchSpec(
    name="seed_oss",
    hf_architectures=("SeedOssForCausalLM",),
    metadata=(DECODER,),
    tensors=(EMBEDDINGS, NORMS, ATTENTION, GATED_MLP),
    defaults={
        "seed_oss": {
            "vocab_size": 155136,
            "hidden_size": 4096,
            "intermediate_size": 27648,
            "num_hidden_layers": 64,
            "num_attention_heads": 80,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "max_position_embeddings": 524288,
            "rms_norm_eps": 1e-6,
            "rope_theta": 10000.0,
        }
    },
    biases=OPTIONAL_QKV_BIASES,
    vocabulary=Vocabulary.BYTE_LEVEL,
    remarks=remarks,
)

SPECS = (SEED_OSS,)
