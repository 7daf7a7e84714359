"""ERNIE 4.5, dense: Llama roped in neighbouring pairs, so nothing to permute; first releases fused q, k and v."""

from collections.abc import Iterable

from ggufkit.architectures._blocks import (
    ATTENTION,
    DECODER,
    EMBEDDINGS,
    GATED_MLP,
    LAYERS,
    OPTIONAL_QKV_BIASES,
    PRE_NORMS,
    require_activation,
)
from ggufkit.architectures._ops import Split
from ggufkit.architectures._sizes import Config
from ggufkit.architectures._spec import ArchSpec, Vocabulary, blocks, to

FUSED = blocks(
    LAYERS,
    {
        "self_attn.qkv_proj": to(
            "attn_q", "attn_k", "attn_v", op=Split("heads*head", "kv_heads*head", "kv_heads*head")
        ),
        "mlp.up_gate_proj": to("ffn_gate", "ffn_up", op=Split("ff", "ff")),
    },
)


def remarks(config: Config) -> Iterable[str]:
    """Refuse another activation."""
    require_activation(config, "silu")
    return ()


ERNIE = ArchSpec(
    name="ernie4_5",
    hf_architectures=("Ernie4_5ForCausalLM", "Ernie4_5_ForCausalLM"),
    metadata=(DECODER,),
    tensors=(EMBEDDINGS, PRE_NORMS, ATTENTION, GATED_MLP, FUSED),
    defaults={
        "ernie4_5": {
            "vocab_size": 103424,
            "hidden_size": 1024,
            "intermediate_size": 3072,
            "num_hidden_layers": 18,
            "num_attention_heads": 16,
            "num_key_value_heads": 2,
            "head_dim": 128,
            "max_position_embeddings": 131072,
            "rms_norm_eps": 1e-5,
            "rope_theta": 500000.0,
            "tie_word_embeddings": True,
        }
    },
    biases=OPTIONAL_QKV_BIASES,
    vocabulary=Vocabulary.ERNIE,
    remarks=remarks,
)

SPECS = (ERNIE,)
