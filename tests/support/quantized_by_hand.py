"""Tiny checkpoints of any architecture, quantized here by formats' own definitions: not by a library, for shapes only.

The fixtures of the libraries are all of one small Llama; these show that experts, latent attention and what else rows
go through come out right.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import recipes
import stored_tensors
from stored_tensors import Stored, stored

RANDOM = np.random.default_rng(11)
Quantizer = Callable[[str, tuple[int, ...]], Stored | None]


def checkpoint(recipe: str, folder: Path, quantize: Quantizer, told: dict[str, Any]) -> Path:
    """Write a recipe's checkpoint; `quantize` gives what is stored of a weight of a shape, None to leave it plain."""
    recipes.checkpoint(recipe, folder)
    found: Stored = {}
    for name, entry in stored_tensors.read(folder / "model.safetensors").items():
        found |= quantize(name, entry[1]) or {name: entry}
    stored_tensors.write(folder / "model.safetensors", found)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": told}))
    return folder


INT4 = {
    "quant_method": "compressed-tensors",
    "format": "pack-quantized",
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32, "symmetric": True},
        }
    },
}
NVFP4 = {"quant_method": "modelopt", "quant_algo": "NVFP4"}
MXFP4 = {"quant_method": "mxfp4"}
FP8 = {"quant_method": "fp8", "weight_block_size": [128, 128]}


def int4(name: str, shape: tuple[int, ...]) -> Stored | None:
    if not _is_projection(name, shape, 32):
        return None
    words = RANDOM.integers(-(2**31), 2**31, (shape[0], shape[1] // 8)).astype(np.int32)
    scale = RANDOM.uniform(0.005, 0.02, (shape[0], shape[1] // 32)).astype(np.float16)
    return {f"{name}_packed": stored(words), f"{name}_scale": stored(scale), f"{name}_shape": stored(np.array(shape))}


def nvfp4(name: str, shape: tuple[int, ...]) -> Stored | None:
    if not _is_projection(name, shape, 64):
        return None
    codes = RANDOM.integers(0, 256, (shape[0], shape[1] // 2), dtype=np.uint8)
    scale = RANDOM.integers(0x30, 0x60, (shape[0], shape[1] // 16), dtype=np.uint8)
    whole = RANDOM.uniform(0.002, 0.006, ()).astype(np.float32)
    module = name.removesuffix("weight")
    return {
        name: stored(codes),
        f"{name}_scale": stored(scale, "F8_E4M3"),
        f"{name}_scale_2": stored(whole),
        f"{module}input_scale": stored(np.float32(0.01).reshape(())),
    }


def mxfp4(name: str, shape: tuple[int, ...]) -> Stored | None:
    """Store fused experts, experts x inputs x outputs by name, as gpt-oss does."""
    if not name.endswith((".experts.gate_up_proj", ".experts.down_proj")):
        return None
    experts, inputs, outputs = shape
    blocks = RANDOM.integers(0, 256, (experts, outputs, inputs // 32, 16), dtype=np.uint8)
    scales = RANDOM.integers(118, 124, (experts, outputs, inputs // 32), dtype=np.uint8)
    return {f"{name}_blocks": stored(blocks), f"{name}_scales": stored(scales)}


def fp8(name: str, shape: tuple[int, ...]) -> Stored | None:
    if not _is_projection(name, shape, 1):
        return None
    codes = (RANDOM.integers(0, 0x7F, shape) | RANDOM.choice([0, 0x80], shape)).astype(np.uint8)
    scale = RANDOM.uniform(1e-4, 1e-3, tuple(-(-size // 128) for size in shape)).astype(np.float32)
    return {name: stored(codes, "F8_E4M3"), f"{name}_scale_inv": stored(scale)}


def _is_projection(name: str, shape: tuple[int, ...], group: int) -> bool:
    return re.search(r"(_proj|_proj_with_mqa|\.w[123])\.weight$", name) is not None and shape[1] % group == 0
