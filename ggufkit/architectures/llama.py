"""Llama, and the models that are Llama by another name: Mistral, Mixtral."""

from collections.abc import Iterable

from ggufkit.architectures._blocks import (
    ATTENTION,
    COMMON_DEFAULTS,
    DECODER,
    EMBEDDINGS,
    EXPERTS,
    GATED_MLP,
    LAYERS,
    OPTIONAL_ATTENTION_BIASES,
    OPTIONAL_MLP_BIASES,
    PRE_NORMS,
    require_activation,
    require_experts,
    routed_experts,
    window_not_applied,
)
from ggufkit.architectures._head_ops import UndoRopePermute
from ggufkit.architectures._rope import llama3_frequency_factors
from ggufkit.architectures._sizes import Config
from ggufkit.architectures._spec import ArchSpec, MetadataTable, Vocabulary, blocks, to

SIZES: MetadataTable = {
    "vocab_size": "vocab_size",
    "rope.dimension_count": "head",
    "attention.key_length": "head",
    "attention.value_length": "head",
}
PERMUTED_QK = blocks(
    LAYERS,
    {
        "self_attn.q_proj": to("attn_q", op=UndoRopePermute("heads")),
        "self_attn.k_proj": to("attn_k", op=UndoRopePermute("kv_heads")),
    },
)
# Mixtral's names, and those that llm-compressor gives its experts.
MIXTRAL_EXPERTS = {
    **routed_experts("block_sparse_moe", gate="gate_proj", up="up_proj", down="down_proj"),
    **routed_experts("block_sparse_moe", gate="w1", up="w3", down="w2"),
}
BIASES = f"{OPTIONAL_ATTENTION_BIASES} {OPTIONAL_MLP_BIASES}"
MISTRAL = {**COMMON_DEFAULTS, "max_position_embeddings": 131072, "num_key_value_heads": 8, "sliding_window": 4096}


def remarks(config: Config) -> Iterable[str]:
    """Refuse another activation; warn of a sliding window, which ggml's llama graph does not apply."""
    require_activation(config, "silu")
    require_experts(config)
    yield from window_not_applied(config)


LLAMA = ArchSpec(
    name="llama",
    hf_architectures=(
        "LlamaForCausalLM",
        "LLaMAForCausalLM",
        "LlamaModel",
        "VLlama3ForCausalLM",  # SmolVLM's text model
        "IQuestCoderForCausalLM",
        "MistralForCausalLM",
        "MistralModel",
        "MixtralForCausalLM",
    ),
    metadata=(DECODER, EXPERTS, SIZES),
    tensors=(EMBEDDINGS, PRE_NORMS, ATTENTION, GATED_MLP, PERMUTED_QK, MIXTRAL_EXPERTS),
    biases=BIASES,
    kinds=lambda config, _: "sparse" if config.get("experts") else "dense",
    ropes=("linear", "yarn", "llama3"),
    defaults={
        "llama": {**COMMON_DEFAULTS, "max_position_embeddings": 2048},
        "mistral": MISTRAL,
        "mixtral": {
            **MISTRAL,
            "sliding_window": None,
            "rope_theta": 1e6,
            "rms_norm_eps": 1e-5,
            "num_local_experts": 8,
            "num_experts_per_tok": 2,
        },
    },
    extra_tensors=llama3_frequency_factors,
    vocabulary=Vocabulary.LLAMA,
    remarks=remarks,
)

SPECS = (LLAMA,)
