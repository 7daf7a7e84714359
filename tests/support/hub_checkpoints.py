"""Checkpoints as the hub has them: each config.json spelled as released, shrunk, with random bf16 weights.

transformers rewrites a config when it saves one: it fills in defaults, renames keys and drops others. People convert
the files as they were released, with `torch_dtype`, `rope_scaling` in its older spellings, keys that are null, keys
of no meaning. Only sizes differ from the originals here.
"""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tiny_checkpoints

_SIZES = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": tiny_checkpoints.VOCABULARY,
}
_COMMON = {"initializer_range": 0.02, "use_cache": True, "torch_dtype": "bfloat16", "attention_dropout": 0.0}
_LLAMA = {**_COMMON, "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu"}
_MISTRAL = {**_LLAMA, "architectures": ["MistralForCausalLM"], "model_type": "mistral", "tie_word_embeddings": False}
_QWEN = {**_COMMON, "hidden_act": "silu", "use_sliding_window": False, "bos_token_id": 0, "eos_token_id": 1}
_DEEPSEEK = {
    **_COMMON,
    "hidden_act": "silu",
    "attention_bias": False,
    "aux_loss_alpha": 0.001,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "ep_size": 1,
    "first_k_dense_replace": 1,
    "kv_lora_rank": 32,
    "max_position_embeddings": 163840,
    "moe_intermediate_size": 32,
    "moe_layer_freq": 1,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "num_key_value_heads": 4,
    "pretraining_tp": 1,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "rms_norm_eps": 1e-06,
    "rope_theta": 10000,
    "seq_aux": True,
    "tie_word_embeddings": False,
    "v_head_dim": 16,
}
_LLAMA3_ROPE = {
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
    "rope_type": "llama3",
}
_GEMMA = {
    **_COMMON,
    "architectures": ["Gemma2ForCausalLM"],
    "model_type": "gemma2",
    "attention_bias": False,
    "attn_logit_softcapping": 50.0,
    "bos_token_id": 2,
    "cache_implementation": "hybrid",
    "eos_token_id": 1,
    "final_logit_softcapping": 30.0,
    "head_dim": 32,
    "hidden_act": "gelu_pytorch_tanh",
    "hidden_activation": "gelu_pytorch_tanh",
    "max_position_embeddings": 8192,
    "pad_token_id": 0,
    "query_pre_attn_scalar": 32,
    "rms_norm_eps": 1e-06,
    "rope_theta": 10000.0,
    "sliding_window": 4096,
}

CONFIGS: dict[str, dict[str, Any]] = {
    # The first LLaMA: one key and value head for each query head, which nobody had to say then (null: left out).
    "llama-1-7b": {**_LLAMA, "max_position_embeddings": 2048, "rms_norm_eps": 1e-06, "num_key_value_heads": None},
    "llama-2-7b": {
        **_LLAMA,
        "_name_or_path": "meta-llama/Llama-2-7b-hf",
        "max_position_embeddings": 4096,
        "num_key_value_heads": 4,
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-05,
        "rope_scaling": {},
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
    },
    "llama-3.1-8b": {
        **_LLAMA,
        "attention_bias": False,
        "bos_token_id": 0,
        "eos_token_id": [1, 2],
        "max_position_embeddings": 131072,
        "mlp_bias": False,
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-05,
        "rope_scaling": _LLAMA3_ROPE,
        "rope_theta": 500000.0,
        "tie_word_embeddings": False,
    },
    "llama-3.2-1b": {
        **_LLAMA,
        "attention_bias": False,
        "head_dim": 32,
        "max_position_embeddings": 131072,
        "mlp_bias": False,
        "rms_norm_eps": 1e-05,
        "rope_scaling": {**_LLAMA3_ROPE, "factor": 32.0},
        "rope_theta": 500000.0,
        "tie_word_embeddings": True,
    },
    "mistral-7b-v0.1": {
        **_MISTRAL,
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-05,
        "rope_theta": 10000.0,
        "sliding_window": 4096,
    },
    "mistral-7b-v0.3": {
        **_MISTRAL,
        "max_position_embeddings": 32768,
        "rms_norm_eps": 1e-05,
        "rope_theta": 1000000.0,
        "sliding_window": None,
    },
    "mixtral-8x7b": {
        **_MISTRAL,
        "architectures": ["MixtralForCausalLM"],
        "model_type": "mixtral",
        "max_position_embeddings": 32768,
        "num_experts_per_tok": 2,
        "num_local_experts": 8,
        "output_router_logits": False,
        "rms_norm_eps": 1e-05,
        "rope_theta": 1000000.0,
        "router_aux_loss_coef": 0.02,
        "sliding_window": None,
    },
    "qwen2.5-0.5b": {
        **_QWEN,
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "max_position_embeddings": 32768,
        "max_window_layers": 24,
        "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0,
        "sliding_window": 32768,
        "tie_word_embeddings": True,
    },
    "qwen2.5-7b-yarn": {
        **_QWEN,
        "architectures": ["Qwen2ForCausalLM"],
        "model_type": "qwen2",
        "max_position_embeddings": 131072,
        "max_window_layers": 28,
        "rms_norm_eps": 1e-06,
        "rope_theta": 1000000.0,
        "rope_scaling": {"factor": 4.0, "original_max_position_embeddings": 32768, "type": "yarn"},
        "sliding_window": 131072,
        "tie_word_embeddings": False,
        "use_mrope": False,
    },
    "qwen3-0.6b": {
        **_QWEN,
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "attention_bias": False,
        "head_dim": 32,
        "max_position_embeddings": 40960,
        "max_window_layers": 28,
        "rms_norm_eps": 1e-06,
        "rope_scaling": None,
        "rope_theta": 1000000,
        "sliding_window": None,
        "tie_word_embeddings": True,
    },
    "gemma-2-2b": _GEMMA,
    "gemma-2-27b": {**_GEMMA, "head_dim": 8, "query_pre_attn_scalar": 16, "num_hidden_layers": 46},
    "deepseek-v2-lite": {
        **_DEEPSEEK,
        "architectures": ["DeepseekV2ForCausalLM"],
        "auto_map": {
            "AutoConfig": "configuration_deepseek.DeepseekV2Config",
            "AutoModel": "modeling_deepseek.DeepseekV2Model",
            "AutoModelForCausalLM": "modeling_deepseek.DeepseekV2ForCausalLM",
        },
        "model_type": "deepseek_v2",
        "n_group": 1,
        "n_shared_experts": 2,
        "norm_topk_prob": False,
        "num_hidden_layers": 27,
        "q_lora_rank": None,
        "rope_scaling": {
            "beta_fast": 32,
            "beta_slow": 1,
            "factor": 40,
            "mscale": 0.707,
            "mscale_all_dim": 0.707,
            "original_max_position_embeddings": 4096,
            "type": "yarn",
        },
        "routed_scaling_factor": 1.0,
        "scoring_func": "softmax",
        "topk_group": 1,
        "topk_method": "greedy",
    },
    # As people publish it in bf16: without quantization_config, with the multi-token-prediction layer.
    "deepseek-v3": {
        **_DEEPSEEK,
        "architectures": ["DeepseekV3ForCausalLM"],
        "auto_map": {"AutoConfig": "configuration_deepseek.DeepseekV3Config"},
        "model_type": "deepseek_v3",
        "n_group": 2,
        "n_shared_experts": 1,
        "norm_topk_prob": True,
        "num_nextn_predict_layers": 1,
        "q_lora_rank": 24,
        "rope_scaling": {
            "beta_fast": 32,
            "beta_slow": 1,
            "factor": 40,
            "mscale": 1.0,
            "mscale_all_dim": 1.0,
            "original_max_position_embeddings": 4096,
            "type": "yarn",
        },
        "routed_scaling_factor": 2.5,
        "scoring_func": "sigmoid",
        "topk_group": 1,
        "topk_method": "noaux_tc",
    },
}
OLD = {"llama-1-7b"}  # upstream needs transformers to make sense of its config.json
AS_RELEASED = "hub"  # in the place of an element type
UPSTREAM_JOBS = [(name, AS_RELEASED, "f16") for name in CONFIGS]
_SENTENCEPIECE = ("llama-1", "llama-2", "mistral", "mixtral", "gemma")


def make(name: str, folder: Path) -> Path:
    """Write the checkpoint in `folder` and return it."""
    settings = {**_SIZES, **CONFIGS[name]}
    written = {key: value for key, value in settings.items() if name not in OLD or value is not None}
    (folder / "config.json").write_text(json.dumps(written, indent=2))
    write_bf16(folder / "model.safetensors", dict(shapes(settings)))
    kind = "sentencepiece" if name.startswith(_SENTENCEPIECE) else "byte-level-bpe"
    tiny_checkpoints.write_tokenizer(kind, folder)
    return folder


def write_bf16(path: Path, sizes: dict[str, tuple[int, ...]]) -> None:
    """Write random normal weights as bf16 safetensors; numpy has no such type, so its upper halves are cut off."""
    random = np.random.default_rng(0)
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = bytearray()
    for name, shape in sizes.items():
        values = (random.standard_normal(shape) * 0.1).astype("<f4")
        start = len(data)
        data += (values.view("<u4") >> 16).astype("<u2").tobytes()
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, len(data)]}
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def shapes(config: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name the tensors that a released checkpoint of this config holds, with their shapes."""
    hidden = config["hidden_size"]
    yield "model.embed_tokens.weight", (config["vocab_size"], hidden)
    for block in range(config["num_hidden_layers"] + config.get("num_nextn_predict_layers", 0)):
        prefix = f"model.layers.{block}"
        yield f"{prefix}.input_layernorm.weight", (hidden,)
        yield f"{prefix}.post_attention_layernorm.weight", (hidden,)
        if "gemma2" in config["model_type"]:
            yield f"{prefix}.pre_feedforward_layernorm.weight", (hidden,)
            yield f"{prefix}.post_feedforward_layernorm.weight", (hidden,)
        yield from (
            _latent_attention(f"{prefix}.self_attn", config)
            if "kv_lora_rank" in config
            else _attention(f"{prefix}.self_attn", config)
        )
        yield from _feed_forward(prefix, block, config)
        if block >= config["num_hidden_layers"]:
            yield f"{prefix}.embed_tokens.weight", (config["vocab_size"], hidden)
            yield f"{prefix}.enorm.weight", (hidden,)
            yield f"{prefix}.hnorm.weight", (hidden,)
            yield f"{prefix}.eh_proj.weight", (hidden, 2 * hidden)
            yield f"{prefix}.shared_head.norm.weight", (hidden,)
            yield f"{prefix}.shared_head.head.weight", (config["vocab_size"], hidden)
    yield "model.norm.weight", (hidden,)
    if not config.get("tie_word_embeddings", config["model_type"] == "gemma2"):
        yield "lm_head.weight", (config["vocab_size"], hidden)


def _attention(prefix: str, config: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    size = config.get("head_dim") or hidden // heads
    rows = {"q": heads * size} | dict.fromkeys("kv", (config["num_key_value_heads"] or heads) * size)
    for part, count in rows.items():
        yield f"{prefix}.{part}_proj.weight", (count, hidden)
        if config["model_type"] == "qwen2":
            yield f"{prefix}.{part}_proj.bias", (count,)
    yield f"{prefix}.o_proj.weight", (hidden, heads * size)
    if config["model_type"] == "qwen3":
        yield f"{prefix}.q_norm.weight", (size,)
        yield f"{prefix}.k_norm.weight", (size,)
    if config["model_type"] == "llama" and "rope_theta" not in config:  # saved with the first two Llamas
        yield f"{prefix}.rotary_emb.inv_freq", (size // 2,)


def _latent_attention(prefix: str, config: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    hidden, heads, rank = config["hidden_size"], config["num_attention_heads"], config["kv_lora_rank"]
    nope, rope, value = (config[key] for key in ("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"))
    if query_rank := config["q_lora_rank"]:
        yield f"{prefix}.q_a_proj.weight", (query_rank, hidden)
        yield f"{prefix}.q_a_layernorm.weight", (query_rank,)
        yield f"{prefix}.q_b_proj.weight", (heads * (nope + rope), query_rank)
    else:
        yield f"{prefix}.q_proj.weight", (heads * (nope + rope), hidden)
    yield f"{prefix}.kv_a_proj_with_mqa.weight", (rank + rope, hidden)
    yield f"{prefix}.kv_a_layernorm.weight", (rank,)
    yield f"{prefix}.kv_b_proj.weight", (heads * (nope + value), rank)
    yield f"{prefix}.o_proj.weight", (hidden, heads * value)


def _feed_forward(prefix: str, block: int, config: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    hidden = config["hidden_size"]
    if experts := config.get("num_local_experts"):
        width = config["intermediate_size"]
        yield f"{prefix}.block_sparse_moe.gate.weight", (experts, hidden)
        for expert in range(experts):
            yield f"{prefix}.block_sparse_moe.experts.{expert}.w1.weight", (width, hidden)
            yield f"{prefix}.block_sparse_moe.experts.{expert}.w2.weight", (hidden, width)
            yield f"{prefix}.block_sparse_moe.experts.{expert}.w3.weight", (width, hidden)
        return
    width, parts = config["intermediate_size"], [f"{prefix}.mlp"]
    if "n_routed_experts" in config and block >= config["first_k_dense_replace"]:
        width = config["moe_intermediate_size"]
        parts = [f"{prefix}.mlp.experts.{expert}" for expert in range(config["n_routed_experts"])]
        yield f"{prefix}.mlp.gate.weight", (config["n_routed_experts"], hidden)
        if config["topk_method"] == "noaux_tc":
            yield f"{prefix}.mlp.gate.e_score_correction_bias", (config["n_routed_experts"],)
        yield from _gated(f"{prefix}.mlp.shared_experts", hidden, width * config["n_shared_experts"])
    for part in parts:
        yield from _gated(part, hidden, width)


def _gated(prefix: str, hidden: int, width: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{prefix}.gate_proj.weight", (width, hidden)
    yield f"{prefix}.up_proj.weight", (width, hidden)
    yield f"{prefix}.down_proj.weight", (hidden, width)
