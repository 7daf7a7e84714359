"""What a recipe of a tiny checkpoint is, and its weights: the same everywhere, made from names and shapes."""

import json
import re
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

VOCABULARY = 384
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Recipe:
    """One checkpoint, small enough for a laptop's blink and odd enough to notice a mistake.

    `model` is the class of transformers that builds it, and what config.json names unless `extra_config` says
    otherwise; `config` are its settings. A recipe with `shapes` is of a model that transformers does not build: then
    `config` is the whole config.json and `model` the name in it.

    `extra_config` adds keys to the config.json that transformers saves, as released ones have them; None removes one.
    `alter` changes the names and shapes of the saved tensors, as older or newer checkpoints have them.
    `weights` overrides the distribution of tensors whose name matches a regular expression: (mean, deviation).
    `explained` says why our metadata key or tensor differs from llama.cpp's converter's: it is then not compared.
    `warns` are parts of the warnings that are expected, in any order; there must be no others.
    `no_golden` and `no_logits` say why llama.cpp's converter or transformers cannot be asked.
    `no_mtp` tells llama.cpp's converter to look for no multi-token prediction, without which some classes stop.
    `raw_config` has llama.cpp's converter read config.json itself: where transformers' AutoConfig loses keys.
    """

    model: str
    config: Mapping[str, Any]
    dtype: str = "BF16"
    extra_config: Mapping[str, Any] = field(default_factory=dict)
    shapes: Shapes | None = None
    alter: Callable[[dict[str, tuple[int, ...]]], Shapes] | None = None
    weights: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    explained: Mapping[str, str] = field(default_factory=dict)
    warns: tuple[str, ...] = ()
    no_golden: str | None = None
    no_logits: str | None = None
    raw_config: bool = False
    no_mtp: bool = False


def decoder(**changes: Any) -> dict[str, Any]:
    """Settings that nearly every decoder-only model has, with changes; None takes a setting out."""
    settings = {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "vocab_size": VOCABULARY,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 2,
        **changes,
    }
    return {key: value for key, value in settings.items() if value is not None}


def write(folder: Path, config: Mapping[str, Any], shapes: Mapping[str, Any], recipe: Recipe) -> Path:
    """Write config.json and model.safetensors: the whole checkpoint but for its tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    tensors = {name: _weights(name, tuple(shape), recipe) for name, shape in shapes.items()}
    _save(tensors, folder / "model.safetensors", recipe.dtype)
    return folder


def _weights(name: str, shape: tuple[int, ...], recipe: Recipe) -> np.ndarray:
    chosen = (values for pattern, values in recipe.weights.items() if re.search(pattern, name))
    mean, deviation = next(chosen, None) or _usual(name, shape)
    return (mean + deviation * _normal(name, shape)).astype(np.float32)


def _usual(name: str, shape: tuple[int, ...]) -> tuple[float, float]:
    """Norms of one and biases of zero would hide mistakes."""
    if re.search(r"(?:norm|ln_\w+|layernorm|ln)\w*\.(?:weight|gamma)$", name, re.IGNORECASE):
        return 1.0, 0.2
    if len(shape) <= 1:
        return 0.0, 0.1
    if re.search(r"(?:\bgate|router|\bwg)(?:\.\w+)?\.weight$", name) and len(shape) == 2:
        return 0.0, 0.4  # routers: experts must be chosen with a margin
    return 0.0, 0.08


def _normal(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Numbers close to normal, from integer arithmetic alone: any numpy on any machine makes the same."""
    count = int(np.prod(shape, dtype=np.int64))
    with np.errstate(over="ignore"):
        state = np.arange(count, dtype=np.uint64) + (np.uint64(zlib.crc32(name.encode())) << np.uint64(32))
        state = state * np.uint64(0x9E3779B97F4A7C15)  # splitmix64
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state ^= state >> np.uint64(31)
    quarters = sum((state >> np.uint64(16 * i)) & np.uint64(0xFFFF) for i in range(4))
    return ((quarters.astype(np.float64) - 2 * 65535) / (65536 / np.sqrt(3))).reshape(shape)


def _save(tensors: dict[str, np.ndarray], path: Path, dtype: str) -> None:
    if dtype != "BF16":
        save_file({name: np.asarray(array, {"F32": "f4", "F16": "f2"}[dtype]) for name, array in tensors.items()}, path)
        return
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}  # safetensors.numpy writes no bfloat16
    pieces, place = [], 0
    for name, array in tensors.items():
        bits = np.ascontiguousarray(array).reshape(-1).view(np.uint32)
        rounded = ((bits + np.uint32(0x7FFF) + ((bits >> 16) & np.uint32(1))) >> 16).astype("<u2").tobytes()
        header[name] = {"dtype": "BF16", "shape": array.shape, "data_offsets": [place, place + len(rounded)]}
        pieces.append(rounded)
        place += len(rounded)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"".join(pieces))
