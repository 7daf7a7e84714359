"""The tables that most decoder-only models share."""

from collections.abc import Iterator, Mapping
from typing import Any

from ggufkit.architectures._ops import Stack
from ggufkit.architectures._rope import ROPE
from ggufkit.architectures._sizes import Config
from ggufkit.architectures._spec import MetadataTable, TensorTable, blocks, maybe, to
from ggufkit.errors import CheckpointError

# llama.cpp: llama_expert_gating_func_type. Dots 1's config names its sigmoid after the method of choosing.
_GATING_FUNCTIONS = {"softmax": 1, "sigmoid": 2, "noaux_tc": 2, "sqrtsoftplus": 4}

LAYERS = "model.layers"

EMBEDDINGS: TensorTable = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output?",  # unless the config ties it to the embeddings; the planner looks
}
PRE_NORMS = blocks(LAYERS, {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"})
FOUR_NORMS = blocks(
    LAYERS,
    {
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "post_attention_norm",
        "pre_feedforward_layernorm": "ffn_norm",
        "post_feedforward_layernorm": "post_ffw_norm",
    },
)
ATTENTION = blocks(
    LAYERS,
    {
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
    },
)
HEAD_NORMS = blocks(LAYERS, {"self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm"})
GATED_MLP = blocks(LAYERS, {"mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"})
PLAIN_MLP = blocks(LAYERS, {"mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"})
SHARED_EXPERTS = blocks(
    LAYERS,
    {
        "mlp.shared_experts.gate_proj": "ffn_gate_shexp",
        "mlp.shared_experts.up_proj": "ffn_up_shexp",
        "mlp.shared_experts.down_proj": "ffn_down_shexp",
    },
)

# Values of `biases`.
QKV_BIASES = "attn_q attn_k attn_v"
OPTIONAL_QKV_BIASES = "attn_q? attn_k? attn_v?"
OPTIONAL_ATTENTION_BIASES = "attn_q? attn_k? attn_v? attn_output?"
OPTIONAL_MLP_BIASES = "ffn_gate? ffn_up? ffn_down?"


def routed_experts(moe: str, *, gate: str, up: str, down: str, router: str = "gate") -> TensorTable:
    """One tensor per expert in HF, one stacked tensor per projection in GGUF."""
    return blocks(
        LAYERS,
        {
            f"{moe}.{router}": "ffn_gate_inp",
            f"{moe}.experts.{{e}}.{gate}": to("ffn_gate_exps", op=Stack()),
            f"{moe}.experts.{{e}}.{up}": to("ffn_up_exps", op=Stack()),
            f"{moe}.experts.{{e}}.{down}": to("ffn_down_exps", op=Stack()),
        },
    )


def gating_function(config: Config) -> int | None:
    """Number the router's scoring function; an unknown name is an error, not a guess. Raises CheckpointError."""
    name = config.get("scoring_func")
    if name is None:
        return None
    if name not in _GATING_FUNCTIONS:
        raise CheckpointError(f"config.json: unknown scoring_func {name!r}; known: {', '.join(_GATING_FUNCTIONS)}")
    return _GATING_FUNCTIONS[name]


def _all_groups_used(config: Config) -> bool:
    """Tell whether experts are chosen among all groups: as without groups, of which llama.cpp aborts."""
    return (groups := config.get("n_group") or 1) > 1 and (config.get("topk_group") or 1) >= groups


def require_activation(config: Config, *expected: str, keys: tuple[str, ...] = ("hidden_act",)) -> None:
    """Refuse a model whose activation function llama.cpp does not compute for this architecture.

    `expected` are names of one function; `keys` are the config keys that may name it.
    """
    for key in keys:
        if (name := config.get(key)) is not None and name not in expected:
            raise CheckpointError(
                f"config.json: {key} is {name!r}; llama.cpp computes {expected[0]!r} for this architecture",
                hint="no GGUF architecture expresses this model; its answers would be wrong",
            )


def require(config: Config, why: str, **expected: Any) -> None:
    """Refuse a config whose keys, where set, have other values than these; `why` names what llama.cpp does.

    Raises:
        CheckpointError: one of them has another.
    """
    for key, value in expected.items():
        if (found := config.get(key)) is not None and found != value:
            raise CheckpointError(
                f"config.json: {key} is {found!r}; {why}",
                hint="no GGUF architecture expresses this model; its answers would be wrong",
            )


def require_experts(config: Config, key: str = "num_experts_per_tok") -> None:
    """Refuse a router that is to choose more experts than there are, on which llama.cpp aborts.

    Raises:
        CheckpointError: it is to choose more.
    """
    if (experts := config.get("experts")) and (used := config.get(key)) and used > experts:
        raise CheckpointError(f"config.json: {key} is {used}, but there are {experts} experts")


def inner_norms_differ(config: Config, what: str) -> Iterator[str]:
    """Warn where llama.cpp norms something inside of blocks with the model's epsilon, and transformers with 1e-6."""
    if (epsilon := config["rms_norm_eps"]) != 1e-6:
        yield (
            f"llama.cpp norms {what} with the model's epsilon of {epsilon:g}, the original with 1e-06: "
            "its answers differ slightly from the original's"
        )


def window_not_applied(config: Config) -> Iterator[str]:
    """Warn of a sliding window that llama.cpp does not apply to this architecture, with the context that is right."""
    window, context = config.get("sliding_window"), config.get("max_position_embeddings")
    layer_types = config.get("layer_types") or ["sliding_attention"]
    if config.get("use_sliding_window") is False or not window:
        return
    if "sliding_attention" in layer_types and (context is None or window < context):
        yield (
            f"llama.cpp does not apply this model's sliding_window of {window}: "
            f"beyond {window} tokens its answers differ from the original's"
        )


# The sizes of any stack of blocks; DECODER is that of most: RMS norms and rope.
BODY: MetadataTable = {
    "block_count": "blocks",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "feed_forward_length": "ff",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": maybe("num_key_value_heads"),
    "attention.key_length": maybe("head_dim"),
    "attention.value_length": maybe("head_dim"),
}
RMS_NORM: MetadataTable = {"attention.layer_norm_rms_epsilon": "rms_norm_eps"}
LAYER_NORM: MetadataTable = {"attention.layer_norm_epsilon": "layer_norm_eps"}
DECODER: MetadataTable = {**BODY, "attention.head_count_kv": "kv_heads", **RMS_NORM, **ROPE}
EXPERTS: MetadataTable = {
    "expert_count": maybe("num_experts"),
    "expert_used_count": maybe("num_experts_per_tok"),
    "expert_group_count": lambda c: None if _all_groups_used(c) else c.get("n_group"),
    "expert_group_used_count": lambda c: None if _all_groups_used(c) else c.get("topk_group"),
    "expert_gating_func": gating_function,
}

# What transformers fills in when a released config.json omits it (checked against AutoConfig by an oracle test).
COMMON_DEFAULTS: Mapping[str, Any] = {"rope_theta": 10000.0, "rms_norm_eps": 1e-6}
