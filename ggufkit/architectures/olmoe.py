"""OLMoE: experts in every block; queries and keys normed across all heads at once."""

from collections.abc import Iterable

from ggufkit.architectures._blocks import (
    ATTENTION,
    DECODER,
    EMBEDDINGS,
    EXPERTS,
    HEAD_NORMS,
    PRE_NORMS,
    require_activation,
    require_experts,
)
from ggufkit.architectures._experts import MLP_EXPERTS, weights_normalized
from ggufkit.architectures._sizes import Config
from ggufkit.architectures._spec import ArchSpec
from ggufkit.errors import CheckpointError


def remarks(config: Config) -> Iterable[str]:
    """Refuse fewer key heads than query heads, and clipped states; warn of normalized weights."""
    require_activation(config, "silu")
    require_experts(config)
    if config["kv_heads"] != config["heads"]:
        raise CheckpointError(
            "config.json: num_key_value_heads is not num_attention_heads, as llama.cpp's OLMoE has it"
        )
    if config.get("clip_qkv") is not None:
        raise CheckpointError(f"config.json: clip_qkv is {config['clip_qkv']}; llama.cpp's OLMoE does not clip")
    yield from weights_normalized(config, computed=False)


OLMOE = ArchSpec(
    name="olmoe",
    hf_architectures=("OlmoeForCausalLM",),
    metadata=(DECODER, EXPERTS),
    tensors=(EMBEDDINGS, PRE_NORMS, ATTENTION, HEAD_NORMS, MLP_EXPERTS),
    shapes={"attn_q_norm": "heads*head", "attn_k_norm": "kv_heads*head"},
    needs_output=True,
    defaults={
        "olmoe": {
            "rope_theta": 10000.0,
            "rms_norm_eps": 1e-5,
            "max_position_embeddings": 4096,
            "num_experts": 64,
            "num_experts_per_tok": 8,
            "norm_topk_prob": False,
        }
    },
    remarks=remarks,
)

SPECS = (OLMOE,)
