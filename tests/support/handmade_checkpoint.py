"""A tiny Llama checkpoint made without torch, for tests that change it in one way and watch what happens."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

HIDDEN, INTERMEDIATE, LAYERS, HEADS, KEY_VALUE_HEADS = 32, 64, 2, 4, 2
ALPHABET = [chr(b) for b in [*range(33, 127), *range(161, 173), *range(174, 256)]]
ALPHABET += [chr(256 + i) for i in range(256 - len(ALPHABET))]
TOKENS = ["<|endoftext|>", *ALPHABET, "th"]
VOCABULARY = len(TOKENS)
_QWEN2_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": HIDDEN,
    "intermediate_size": INTERMEDIATE,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KEY_VALUE_HEADS,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "eos_token_id": 0,
}


def tensors() -> dict[str, np.ndarray]:
    """Make the weights, float32, the same at every call."""
    random = np.random.default_rng(0)
    head = HIDDEN // HEADS
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (VOCABULARY, HIDDEN),
        "lm_head.weight": (VOCABULARY, HIDDEN),
        "model.norm.weight": (HIDDEN,),
    }
    for block in range(LAYERS):
        prefix = f"model.layers.{block}"
        shapes |= {
            f"{prefix}.input_layernorm.weight": (HIDDEN,),
            f"{prefix}.post_attention_layernorm.weight": (HIDDEN,),
            f"{prefix}.self_attn.q_proj.weight": (HEADS * head, HIDDEN),
            f"{prefix}.self_attn.k_proj.weight": (KEY_VALUE_HEADS * head, HIDDEN),
            f"{prefix}.self_attn.v_proj.weight": (KEY_VALUE_HEADS * head, HIDDEN),
            f"{prefix}.self_attn.o_proj.weight": (HIDDEN, HEADS * head),
            f"{prefix}.mlp.gate_proj.weight": (INTERMEDIATE, HIDDEN),
            f"{prefix}.mlp.up_proj.weight": (INTERMEDIATE, HIDDEN),
            f"{prefix}.mlp.down_proj.weight": (HIDDEN, INTERMEDIATE),
        }
    return {name: random.standard_normal(shape).astype(np.float32) * np.float32(0.1) for name, shape in shapes.items()}


def write(folder: Path, weights: dict[str, np.ndarray] | None = None, **config: Any) -> Path:
    """Write the checkpoint; `config` changes keys of config.json, None removes them."""
    folder.mkdir(parents=True, exist_ok=True)
    settings = {key: value for key, value in {**CONFIG, **config}.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(settings))
    save_file(tensors() if weights is None else weights, folder / "model.safetensors")
    write_tokenizer(folder)
    return folder


def shard(folder: Path, parts: int = 2) -> list[Path]:
    """Write the checkpoint as several shards with an index, as large models are."""
    write(folder)
    (folder / "model.safetensors").unlink()
    weights = tensors()
    names = sorted(weights)
    index: dict[str, str] = {}
    paths = []
    for part in range(parts):
        held = names[part::parts]
        path = folder / f"model-{part + 1:05}-of-{parts:05}.safetensors"
        save_file({name: weights[name] for name in held}, path)
        index |= dict.fromkeys(held, path.name)
        paths.append(path)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return paths


def write_tokenizer(folder: Path) -> None:
    """Write a byte-level BPE tokenizer with one merge (llama.cpp loads none without), cut as Qwen 2 cuts."""
    special = {"id": 0, "content": TOKENS[0], "special": True, "normalized": False}
    pieces = [
        {"type": "Split", "pattern": {"Regex": _QWEN2_SPLIT}, "behavior": "Isolated", "invert": False},
        {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False},
    ]
    tokenizer = {
        "version": "1.0",
        "added_tokens": [{**special, "single_word": False, "lstrip": False, "rstrip": False}],
        "normalizer": {"type": "NFC"},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": pieces},
        "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False},
        "model": {"type": "BPE", "vocab": {token: index for index, token in enumerate(TOKENS)}, "merges": ["t h"]},
    }
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": TOKENS[0]}))
