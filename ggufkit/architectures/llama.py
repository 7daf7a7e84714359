"""Llama, and the models that are Llama by another name: Mistral, Mixtral."""

from collections.abc import Iterable

from ggufkit.architectures._blocks import (
    ATTENTION,
    ATTENTION_REQUIRED,
    ATTENTION_SHAPES,
    COMMON_DEFAULTS,
    DECODER,
    EMBEDDING_SHAPES,
    EMBEDDINGS,
    ENDS_REQUIRED,
    EXPERTS,
    EXPERTS_REQUIRED,
    GATED_MLP,
    MLP_REQUIRED,
    MLP_SHAPES,
    PRE_NORMS,
    expert_shapes,
    require_activation,
    require_experts,
    routed_experts,
)
from ggufkit.architectures._ops import UndoRopePermute
from ggufkit.architectures._rope import llama3_frequency_factors
from ggufkit.architectures._sizes import Config, head_dim
from ggufkit.architectures._spec import ArchSpec, MetadataTable, ShapeTable, TensorTable, Vocabulary, to

SIZES: MetadataTable = {
    "vocab_size": "vocab_size",
    "rope.dimension_count": head_dim,
    "attention.key_length": head_dim,
    "attention.value_length": head_dim,
}
PERMUTED_QK: TensorTable = {
    "model.layers.{b}.self_attn.q_proj": to("blk.{b}.attn_q", op=UndoRopePermute("num_attention_heads")),
    "model.layers.{b}.self_attn.k_proj": to("blk.{b}.attn_k", op=UndoRopePermute("num_key_value_heads")),
}
MIXTRAL_EXPERTS = routed_experts("block_sparse_moe", gate="w1", up="w3", down="w2")
BIAS_SHAPES: ShapeTable = {
    "blk.{b}.attn_output.bias": lambda c: (c["hidden_size"],),
    "blk.{b}.ffn_gate.bias": lambda c: (c["intermediate_size"],),
    "blk.{b}.ffn_up.bias": lambda c: (c["intermediate_size"],),
    "blk.{b}.ffn_down.bias": lambda c: (c["hidden_size"],),
}


def remarks(config: Config) -> Iterable[str]:
    """Refuse another activation; warn of a sliding window, which ggml's llama graph does not apply."""
    require_activation(config, "silu")
    require_experts(config, "num_local_experts")
    if "sliding_attention" in (config.get("layer_types") or ()):
        yield "llama.cpp does not apply this model's sliding attention layers"
    window, context = config.get("sliding_window"), config.get("max_position_embeddings")
    if window and (context is None or window < context):
        yield (
            f"llama.cpp does not apply this model's sliding_window of {window}: "
            f"beyond {window} tokens its answers differ from the original's"
        )


LLAMA = ArchSpec(
    name="llama",
    hf_architectures=("LlamaForCausalLM", "MistralForCausalLM", "MixtralForCausalLM"),
    metadata=(DECODER, EXPERTS, SIZES),
    tensors=(EMBEDDINGS, PRE_NORMS, ATTENTION, GATED_MLP, PERMUTED_QK, MIXTRAL_EXPERTS),
    required=(*ENDS_REQUIRED, *ATTENTION_REQUIRED),
    dense=MLP_REQUIRED,
    sparse=EXPERTS_REQUIRED,
    dense_blocks=lambda config: 0 if config.get("num_local_experts") else config["num_hidden_layers"],
    shapes=(
        EMBEDDING_SHAPES,
        ATTENTION_SHAPES,
        MLP_SHAPES,
        BIAS_SHAPES,
        expert_shapes("num_local_experts", "intermediate_size"),
    ),
    defaults={
        "LlamaForCausalLM": {**COMMON_DEFAULTS, "max_position_embeddings": 2048},
        "MistralForCausalLM": {
            **COMMON_DEFAULTS,
            "max_position_embeddings": 131072,
            "num_key_value_heads": 8,
            "sliding_window": 4096,
        },
        "MixtralForCausalLM": {
            "rope_theta": 1e6,
            "rms_norm_eps": 1e-5,
            "max_position_embeddings": 131072,
            "num_key_value_heads": 8,
            "num_local_experts": 8,
            "num_experts_per_tok": 2,
        },
    },
    extra_tensors=llama3_frequency_factors,
    expert_count="num_local_experts",
    vocabulary=Vocabulary.LLAMA,
    remarks=remarks,
)

SPECS = (LLAMA,)
