"""The tables that most decoder-only models share."""

from collections.abc import Mapping
from typing import Any

from ggufkit.architectures._ops import Stack
from ggufkit.architectures._rope import ROPE
from ggufkit.architectures._sizes import Config, head_count, head_dim
from ggufkit.architectures._spec import MetadataTable, ShapeTable, TensorTable, maybe, to
from ggufkit.errors import CheckpointError

_GATING_FUNCTIONS = {"softmax": 1, "sigmoid": 2, "sqrtsoftplus": 4}  # llama.cpp: llama_expert_gating_func_type

EMBEDDINGS: TensorTable = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "model.layers.{b}.self_attn.rotary_emb.inv_freq": None,  # computed from the config by everyone
}
PRE_NORMS: TensorTable = {
    "model.layers.{b}.input_layernorm": "blk.{b}.attn_norm",
    "model.layers.{b}.post_attention_layernorm": "blk.{b}.ffn_norm",
}
ATTENTION: TensorTable = {
    "model.layers.{b}.self_attn.q_proj": "blk.{b}.attn_q",
    "model.layers.{b}.self_attn.k_proj": "blk.{b}.attn_k",
    "model.layers.{b}.self_attn.v_proj": "blk.{b}.attn_v",
    "model.layers.{b}.self_attn.o_proj": "blk.{b}.attn_output",
}
HEAD_NORMS: TensorTable = {
    "model.layers.{b}.self_attn.q_norm": "blk.{b}.attn_q_norm",
    "model.layers.{b}.self_attn.k_norm": "blk.{b}.attn_k_norm",
}
GATED_MLP: TensorTable = {
    "model.layers.{b}.mlp.gate_proj": "blk.{b}.ffn_gate",
    "model.layers.{b}.mlp.up_proj": "blk.{b}.ffn_up",
    "model.layers.{b}.mlp.down_proj": "blk.{b}.ffn_down",
}
SHARED_EXPERTS: TensorTable = {
    "model.layers.{b}.mlp.shared_experts.gate_proj": "blk.{b}.ffn_gate_shexp",
    "model.layers.{b}.mlp.shared_experts.up_proj": "blk.{b}.ffn_up_shexp",
    "model.layers.{b}.mlp.shared_experts.down_proj": "blk.{b}.ffn_down_shexp",
}

ENDS_REQUIRED = (("token_embd.weight",), ("output_norm.weight",))
ATTENTION_REQUIRED = tuple(
    (f"blk.{{b}}.{part}.weight",) for part in ("attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm")
)
MLP_REQUIRED = tuple((f"blk.{{b}}.ffn_{part}.weight",) for part in ("gate", "up", "down"))
EXPERTS_REQUIRED = tuple(
    (f"blk.{{b}}.ffn_{part}.weight",) for part in ("gate_inp", "gate_exps", "up_exps", "down_exps")
)


def _rows(heads: str) -> Any:
    return lambda config: (head_count(config, heads) * head_dim(config), config["hidden_size"])


def _bias(heads: str) -> Any:
    return lambda config: (head_count(config, heads) * head_dim(config),)


EMBEDDING_SHAPES: ShapeTable = {
    "token_embd.weight": lambda c: (c["vocab_size"], c["hidden_size"]),
    "output.weight": lambda c: (c["vocab_size"], c["hidden_size"]),
    "output_norm.weight": lambda c: (c["hidden_size"],),
    "blk.{b}.attn_norm.weight": lambda c: (c["hidden_size"],),
    "blk.{b}.ffn_norm.weight": lambda c: (c["hidden_size"],),
}
ATTENTION_SHAPES: ShapeTable = {
    "blk.{b}.attn_q.weight": _rows("num_attention_heads"),
    "blk.{b}.attn_k.weight": _rows("num_key_value_heads"),
    "blk.{b}.attn_v.weight": _rows("num_key_value_heads"),
    "blk.{b}.attn_output.weight": lambda c: (c["hidden_size"], c["num_attention_heads"] * head_dim(c)),
    "blk.{b}.attn_q.bias": _bias("num_attention_heads"),
    "blk.{b}.attn_k.bias": _bias("num_key_value_heads"),
    "blk.{b}.attn_v.bias": _bias("num_key_value_heads"),
}
HEAD_NORM_SHAPES: ShapeTable = {
    "blk.{b}.attn_q_norm.weight": lambda c: (head_dim(c),),
    "blk.{b}.attn_k_norm.weight": lambda c: (head_dim(c),),
}
MLP_SHAPES: ShapeTable = {
    "blk.{b}.ffn_gate.weight": lambda c: (c["intermediate_size"], c["hidden_size"]),
    "blk.{b}.ffn_up.weight": lambda c: (c["intermediate_size"], c["hidden_size"]),
    "blk.{b}.ffn_down.weight": lambda c: (c["hidden_size"], c["intermediate_size"]),
}


def expert_shapes(count: str, width: str) -> ShapeTable:
    """Shapes of the router and of the stacked experts; `count` and `width` are the config keys of their sizes."""
    return {
        "blk.{b}.ffn_gate_inp.weight": lambda c: (c[count], c["hidden_size"]),
        "blk.{b}.ffn_gate_exps.weight": lambda c: (c[count], c[width], c["hidden_size"]),
        "blk.{b}.ffn_up_exps.weight": lambda c: (c[count], c[width], c["hidden_size"]),
        "blk.{b}.ffn_down_exps.weight": lambda c: (c[count], c["hidden_size"], c[width]),
    }


def routed_experts(moe: str, *, gate: str, up: str, down: str) -> TensorTable:
    """One tensor per expert in HF, one stacked tensor per projection in GGUF."""
    block = f"model.layers.{{b}}.{moe}"
    return {
        f"{block}.gate": "blk.{b}.ffn_gate_inp",
        f"{block}.experts.{{e}}.{gate}": to("blk.{b}.ffn_gate_exps", op=Stack()),
        f"{block}.experts.{{e}}.{up}": to("blk.{b}.ffn_up_exps", op=Stack()),
        f"{block}.experts.{{e}}.{down}": to("blk.{b}.ffn_down_exps", op=Stack()),
    }


def gating_function(config: Config) -> int | None:
    """Number the router's scoring function; an unknown name is an error, not a guess."""
    name = config.get("scoring_func")
    if name is None:
        return None
    if name not in _GATING_FUNCTIONS:
        raise CheckpointError(f"config.json: unknown scoring_func {name!r}; known: {', '.join(_GATING_FUNCTIONS)}")
    return _GATING_FUNCTIONS[name]


def require_activation(config: Config, expected: str, *keys: str) -> None:
    """Refuse a model whose activation function llama.cpp does not compute for this architecture."""
    for key in keys or ("hidden_act",):
        if (name := config.get(key)) is not None and name != expected:
            raise CheckpointError(
                f"config.json: {key} is {name!r}; llama.cpp computes {expected!r} for this architecture",
                hint="no GGUF architecture expresses this model; its answers would be wrong",
            )


def require_experts(config: Config, count: str) -> None:
    """Refuse a router that is to choose more experts than there are, on which llama.cpp aborts."""
    if (experts := config.get(count)) and (used := config.get("num_experts_per_tok")) and used > experts:
        raise CheckpointError(f"config.json: num_experts_per_tok is {used}, but {count} is {experts}")


DECODER: MetadataTable = {
    "block_count": "num_hidden_layers",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": lambda config: head_count(config, "num_key_value_heads"),
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "attention.key_length": maybe("head_dim"),
    "attention.value_length": maybe("head_dim"),
    **ROPE,
}
EXPERTS: MetadataTable = {
    "expert_count": maybe("num_local_experts", "n_routed_experts"),
    "expert_used_count": maybe("num_experts_per_tok"),
    "expert_group_count": maybe("n_group"),
    "expert_group_used_count": maybe("topk_group"),
    "expert_gating_func": gating_function,
}

# What transformers fills in when a released config.json omits it (checked against AutoConfig by an oracle test).
COMMON_DEFAULTS: Mapping[str, Any] = {"rope_theta": 10000.0, "rms_norm_eps": 1e-6}
