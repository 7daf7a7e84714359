"""MXFP4, MXFP8 and NVFP4: the values by ggml's and transformers' own tables, the blocks bit for bit."""

from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, quants
from stored_tensors import in_memory, stored, values

from ggufkit.checkpoints.source_quantization import undo_quantization
from ggufkit.errors import CheckpointError

RANDOM = np.random.default_rng(9)
COMPRESSED = {"quantization_config": {"quant_method": "compressed-tensors"}}
MODELOPT = {"quantization_config": {"quant_method": "modelopt", "quant_algo": "NVFP4"}}


def undone(tensors: Any, settings: Any) -> Any:
    return undo_quantization(settings, in_memory(tensors))[0]


def by_gguf(weight: Any, rows: range) -> np.ndarray:
    blocks = weight.blocks()
    return quants.dequantize(blocks.encode(rows), GGMLQuantizationType(blocks.type))


def test_mxfp4_of_matrices() -> None:
    packed = RANDOM.integers(0, 256, (24, 64), dtype=np.uint8)
    exponents = RANDOM.integers(90, 140, (24, 4), dtype=np.uint8)
    weight = undone({"a.weight_packed": stored(packed), "a.weight_scale": stored(exponents)}, COMPRESSED)["a.weight"]
    assert weight.shape == (24, 128)
    assert np.array_equal(values(weight), by_gguf(weight, range(24)))
    assert np.array_equal(values(weight, range(5, 9)), by_gguf(weight, range(5, 9)))


def test_mxfp4_of_experts_means_what_transformers_says() -> None:
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    blocks = RANDOM.integers(0, 256, (3, 10, 2, 16), dtype=np.uint8)
    scales = RANDOM.integers(100, 130, (3, 10, 2), dtype=np.uint8)
    name = "model.layers.0.mlp.experts.down_proj"
    parts = {f"{name}_blocks": stored(blocks), f"{name}_scales": stored(scales)}
    weight = undone(parts, {"quantization_config": {"quant_method": "mxfp4"}})[name]
    turned = convert_moe_packed_tensors(torch.from_numpy(blocks), torch.from_numpy(scales), dtype=torch.float32)
    assert np.array_equal(values(weight), turned.numpy().swapaxes(1, 2))
    assert by_gguf(weight, range(3)).shape == (3, 10, 64)
    assert np.array_equal(by_gguf(weight, range(1, 2)), values(weight, range(1, 2)))


def test_mxfp8() -> None:
    codes = RANDOM.integers(0, 0x7F, (6, 64), dtype=np.uint8)
    exponents = RANDOM.integers(100, 130, (6, 2), dtype=np.uint8)
    weight = undone({"a.weight": stored(codes, "F8_E4M3"), "a.weight_scale": stored(exponents)}, COMPRESSED)["a.weight"]
    plain = torch.from_numpy(codes).view(torch.float8_e4m3fn).float().numpy()
    assert np.array_equal(values(weight), plain * np.repeat(np.exp2(exponents.astype(np.float32) - 127), 32, axis=1))


def nvfp4(whole: float, name: str) -> Any:
    packed = RANDOM.integers(0, 256, (10, 64), dtype=np.uint8)
    scales = RANDOM.integers(0, 0x7F, (10, 8), dtype=np.uint8)
    parts = {
        "a.weight_packed" if "global" in name else "a.weight": stored(packed),
        "a.weight_scale": stored(scales, "F8_E4M3"),
        name: stored(np.float32([whole])),
    }
    return parts, packed, scales


@pytest.mark.parametrize(
    ("name", "factor", "settings"),
    [
        ("a.weight_global_scale", 1 / 1536, COMPRESSED),
        ("a.weight_scale_2", 1536.0, MODELOPT),
        ("a.weight_scale_2", 1536.0, {}),
    ],
)
def test_nvfp4_divides_or_multiplies(name: str, factor: float, settings: Any) -> None:
    """ggml's blocks leave the tensor's own number out: it goes beside them."""
    parts, packed, scales = nvfp4(1536.0, name)
    weight = undone(parts, settings)["a.weight"]
    table = np.float32([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6])
    elements = table[np.stack([packed & 15, packed >> 4], axis=-1).reshape(10, 128)]
    local = torch.from_numpy(scales).view(torch.float8_e4m3fn).float().numpy()
    wanted = elements * np.repeat(local / np.float32(1536) if factor < 1 else local * np.float32(1536), 16, axis=1)
    assert np.array_equal(values(weight), wanted)
    assert np.allclose(by_gguf(weight, range(10)) * weight.blocks().extra["scale"], wanted, rtol=1e-6)
    assert weight.blocks().extra["scale"] == pytest.approx(factor)


def test_what_is_wrong_is_said() -> None:
    packed, scales, wrong = np.zeros((4, 32), np.uint8), np.full((4, 2), 120, np.uint8), np.zeros((4, 3), np.uint8)
    with pytest.raises(CheckpointError, match=r"shape \(4, 3\), expected exponents \(U8\) of shape \(4, 2\)"):
        undone({"a.weight_packed": stored(packed), "a.weight_scale": stored(wrong)}, COMPRESSED)
    scales[2, 1] = 255
    weight = undone({"a.weight_packed": stored(packed), "a.weight_scale": stored(scales)}, COMPRESSED)["a.weight"]
    with pytest.raises(CheckpointError, match="an exponent of 255, which is no number"):
        values(weight)
    parts, _, _ = nvfp4(0.0, "a.weight_global_scale")
    weight = undone(parts, COMPRESSED)["a.weight"]
    with pytest.raises(CheckpointError, match=r"'a\.weight_global_scale' is 0"):
        values(weight)
    parts, _, _ = nvfp4(1.0, "a.weight_scale_2")
    parts["a.pre_quant_scale"] = stored(np.ones(128, np.float32))
    with pytest.raises(CheckpointError, match="scales activations"):
        undone(parts, MODELOPT)


def test_blocks_without_scales_are_said() -> None:
    parts = {
        "a.experts.down_proj_blocks": stored(np.zeros((2, 4, 1, 16), np.uint8)),
        "b.experts.down_proj_blocks": stored(np.zeros((2, 4, 1, 16), np.uint8)),
        "b.experts.down_proj_scales": stored(np.zeros((2, 4, 1), np.uint8)),
    }
    with pytest.raises(CheckpointError, match=r"has no a\.experts\.down_proj_scales"):
        undone(parts, {"quantization_config": {"quant_method": "mxfp4"}})
