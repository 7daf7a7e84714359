"""Gemma 4: full attention with wider heads, keys of its own or none, embeddings of each block, experts beside the MLP.

The rope of full attention turns only the first of its frequencies ("proportional"): divisors of 1 and infinity say so.
"""

from collections.abc import Iterable, Mapping

import numpy as np

from ggufkit.architectures._blocks import (
    ATTENTION,
    DECODER,
    EMBEDDINGS,
    FOUR_NORMS,
    GATED_MLP,
    HEAD_NORMS,
    LAYERS,
    require,
    require_activation,
)
from ggufkit.architectures._gemma import GEMMA3_DEFAULTS, slides
from ggufkit.architectures._ops import Array
from ggufkit.architectures._rope import rope
from ggufkit.architectures._sizes import Config
from ggufkit.architectures._spec import ArchSpec, MetadataTable, TensorTable, Vocabulary, blocks, maybe
from ggufkit.errors import CheckpointError

SHARED_OR_NOT = blocks(
    LAYERS,
    {
        "self_attn.k_proj": "attn_k?",  # the last blocks use those of earlier ones
        "self_attn.v_proj": "attn_v?",  # keys may be the values, too
        "self_attn.k_norm": "attn_k_norm?",
        "layer_scalar": "layer_output_scale.weight?",
    },
)
PER_LAYER: TensorTable = {
    "model.embed_tokens_per_layer": "per_layer_token_embd?",
    "model.per_layer_model_projection": "per_layer_model_proj?",
    "model.per_layer_projection_norm": "per_layer_proj_norm?",
    **blocks(
        LAYERS,
        {
            "per_layer_input_gate": "inp_gate?",
            "per_layer_projection": "proj?",
            "post_per_layer_input_norm": "post_norm?",
        },
    ),
}
EXPERTS = blocks(
    LAYERS,
    {
        "router.proj": "ffn_gate_inp",
        "router.scale": "ffn_gate_inp.scale",
        "router.per_expert_scale": "ffn_down_exps.scale",
        "experts.gate_up_proj": "ffn_gate_up_exps.weight",
        "experts.down_proj": "ffn_down_exps.weight",
        "pre_feedforward_layernorm_2": "pre_ffw_norm_2",
        "post_feedforward_layernorm_1": "post_ffw_norm_1",
        "post_feedforward_layernorm_2": "post_ffw_norm_2",
    },
)
EXPERT_PARTS = ("ffn_gate_inp.scale", "ffn_down_exps.scale", "pre_ffw_norm_2", "post_ffw_norm_1", "post_ffw_norm_2")


def of_full_attention(config: Config, key: str, older: str) -> int | None:
    """Read what full attention has of its own: under a name (transformers 4), or block by block (5)."""
    if (value := config.get(older)) is not None:
        return int(value)
    for block, changes in sorted((config.get("per_layer_config") or {}).items()):
        if not config["slides"][int(block)] and key in changes:
            return int(changes[key])
    return None


def wide_head(config: Config) -> int:
    """Read the head size of full attention."""
    return of_full_attention(config, "head_dim", "global_head_dim") or int(config["head_dim"])


def kv_heads(config: Config) -> int | list[int]:
    """Read the key heads, block by block where full attention has another number."""
    own = config.get("attention_k_eq_v") is not False
    full = of_full_attention(config, "num_key_value_heads", "num_global_key_value_heads") if own else None
    local = int(config["num_key_value_heads"])
    return local if full is None else [local if slide else full for slide in config["slides"]]


def feed_forward(config: Config) -> int | list[int]:
    """Read the feed-forward size, doubled in blocks without keys of their own where the config says so."""
    size, layers = int(config["intermediate_size"]), int(config["num_hidden_layers"])
    if not config.get("use_double_wide_mlp"):
        return size
    first = layers - config["num_kv_shared_layers"]
    return [size * (1 if block < first else 2) for block in range(layers)]


def frequency_divisors(config: Config) -> Mapping[str, Array]:
    """Divide the frequencies of full attention that turn by 1, the others by so much that they do not."""
    half, part = config["wide_head"] // 2, rope(config)["partial_rotary_factor"] or 1.0
    turning = int(config["wide_head"] * part / 2)
    return {"rope_freqs.weight": np.array([1.0] * turning + [1e30] * (half - turning), np.float32)}


SIZES: MetadataTable = {
    "feed_forward_length": "ff",
    "attention.key_length": "wide_head",
    "attention.value_length": "wide_head",
    "attention.key_length_swa": "head_dim",
    "attention.value_length_swa": "head_dim",
    "attention.sliding_window": "sliding_window",
    "attention.sliding_window_pattern": "slides",
    "attention.shared_kv_layers": "num_kv_shared_layers",
    "embedding_length_per_layer_input": lambda c: c.get("hidden_size_per_layer_input") or 0,
    "rope.freq_base_swa": lambda c: rope(c, "sliding_attention")["rope_theta"],
    "rope.dimension_count": "wide_head",
    "rope.dimension_count_swa": lambda c: int(
        c["head_dim"] * (rope(c, "sliding_attention")["partial_rotary_factor"] or 1)
    ),
    "final_logit_softcapping": lambda c: c.get("final_logit_softcapping") or 0.0,  # unsaid is 30 to llama.cpp
    "expert_count": maybe("num_experts"),
    "expert_used_count": maybe("top_k_experts"),
    "expert_feed_forward_length": maybe("moe_intermediate_size", "expert_intermediate_size"),
}


ROPES = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
    "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1000000.0},
}
UNLIKE_GEMMA3 = ("query_pre_attn_scalar", "rope_theta", "rope_local_base_freq")


def remarks(config: Config) -> Iterable[str]:
    """Refuse another activation, attention that looks both ways, or a rope that llama.cpp does not turn."""
    require_activation(config, "gelu_pytorch_tanh", keys=("hidden_activation",))
    if config.get("use_bidirectional_attention") == "all":
        require(config, "llama.cpp's Gemma 4 looks back only", use_bidirectional_attention=None)
    if not any(config["slides"]):
        raise CheckpointError("config.json: no block has a sliding window; llama.cpp's Gemma 4 does not load without")
    if rope(config)["rope_type"] != "proportional" and any(not slide for slide in config["slides"]):
        raise CheckpointError("config.json: the rope of full attention is not proportional; llama.cpp knows no other")
    return ()


GEMMA4 = ArchSpec(
    name="gemma4",
    hf_architectures=("Gemma4ForCausalLM", "Gemma4ForConditionalGeneration"),
    metadata=(DECODER, SIZES),
    tensors=(EMBEDDINGS, FOUR_NORMS, ATTENTION, HEAD_NORMS, GATED_MLP, SHARED_OR_NOT, PER_LAYER, EXPERTS),
    kinds=lambda config, _: "dense sparse" if config.get("enable_moe_block") else "dense",
    kind_of=dict.fromkeys(EXPERT_PARTS, "sparse"),
    sizes={
        "slides": lambda c: slides(c, 6),
        "wide_head": wide_head,
        "head": lambda c: [c["head_dim"] if slide else c["wide_head"] for slide in c["slides"]],
        "kv_heads": kv_heads,
        "ff": feed_forward,
        "per_layer": "hidden_size_per_layer_input",
    },
    shapes={
        "layer_output_scale": "1",
        "per_layer_token_embd": "vocab layers*per_layer",
        "per_layer_model_proj": "layers*per_layer hidden",
        "per_layer_proj_norm": "per_layer",
        "inp_gate": "per_layer hidden",
        "proj": "hidden per_layer",
        "post_norm": "hidden",
        "ffn_gate_inp.scale": "hidden",
        "ffn_down_exps.scale": "experts",
        **dict.fromkeys(EXPERT_PARTS[2:], "hidden"),
    },
    ropes=("proportional", "partial", "per-layer"),
    defaults={
        "gemma4_text": {
            **{key: value for key, value in GEMMA3_DEFAULTS.items() if key not in UNLIKE_GEMMA3},
            "rope_parameters": ROPES,
            "vocab_size": 262144,
            "num_hidden_layers": 30,
            "sliding_window": 512,
            "hidden_size_per_layer_input": 256,
            "num_kv_shared_layers": 0,
        }
    },
    extra_tensors=frequency_divisors,
    vocabulary=Vocabulary.GEMMA_4,
    remarks=remarks,
)

SPECS = (GEMMA4,)
