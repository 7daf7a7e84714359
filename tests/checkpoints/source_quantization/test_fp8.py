"""FP8: every code, every kind of scale, blocks that do not fill, and what is wrong with a checkpoint."""

from typing import Any

import numpy as np
import pytest
import stored_tensors
import torch
from stored_tensors import in_memory, stored, values

from ggufkit.checkpoints.source_quantization import undo_quantization
from ggufkit.errors import CheckpointError

TYPES = {"F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2}
CONFIG = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}
RANDOM = np.random.default_rng(3)


def codes(*shape: int, dtype: str = "F8_E4M3") -> np.ndarray:
    """Codes of finite numbers, zeros, the smallest and the largest ones among them."""
    every = np.arange(256, dtype=np.uint8)
    finite = every[torch.from_numpy(every.copy()).view(TYPES[dtype]).float().isfinite().numpy()]
    return RANDOM.choice(finite, shape)


def by_torch(raw: np.ndarray, dtype: str = "F8_E4M3") -> np.ndarray:
    return torch.from_numpy(raw.copy()).view(TYPES[dtype]).float().numpy()


def undone(tensors: stored_tensors.Stored, config: Any = CONFIG) -> Any:
    return undo_quantization(config, in_memory(tensors))


@pytest.mark.parametrize("dtype", TYPES)
def test_every_code_means_what_torch_says(dtype: str) -> None:
    raw = codes(40, 600, dtype=dtype)
    tensors, _ = undone({"a.weight": stored(raw, dtype), "a.weight_scale": stored(np.float32([1.0]))}, {})
    assert np.array_equal(values(tensors["a.weight"]), by_torch(raw, dtype))


@pytest.mark.parametrize("shape", [(128, 128), (256, 384), (200, 300), (130, 1), (1, 513), (576, 512)])
def test_blocks_that_do_not_fill(shape: tuple[int, int]) -> None:
    """Any rows, as the conversion asks for them, equal the formula applied to the whole."""
    raw = codes(*shape)
    blocks = tuple(-(-size // 128) for size in shape)
    scale = RANDOM.uniform(1e-4, 300, blocks).astype(np.float32)
    expected = by_torch(raw) * np.kron(scale, np.ones((128, 128), np.float32))[: shape[0], : shape[1]]
    tensors, found = undone({"a.weight": stored(raw, "F8_E4M3"), "a.weight_scale_inv": stored(scale)})
    for start, stop in [(0, shape[0]), (0, 1), (shape[0] - 1, shape[0]), (shape[0] // 3, shape[0] // 3 + 100)]:
        rows = range(start, min(stop, shape[0]))
        assert np.array_equal(values(tensors["a.weight"], rows), expected[rows.start : rows.stop])
    assert found.weights == 1


@pytest.mark.parametrize("name", ["a.weight_scale_inv", "a.weight_scale", "a.qscale_weight", "a.scale"])
@pytest.mark.parametrize("shape", [(), (1,), (6, 1), (6,), (1, 1)])
def test_scales_by_all_their_names_and_shapes(name: str, shape: tuple[int, ...]) -> None:
    raw, scale = codes(6, 256), RANDOM.uniform(0.1, 2, shape).astype(np.float32)
    expected = by_torch(raw) * scale.reshape(-1, 1)
    tensors, _ = undone({"a.weight": stored(raw, "F8_E4M3"), name: stored(scale)})
    assert np.array_equal(values(tensors["a.weight"]), expected)
    assert list(tensors) == ["a.weight"]


@pytest.mark.parametrize("shape", [(3,), (3, 1, 1), (3, 130, 1), (3, 2, 3)])
def test_stacked_experts(shape: tuple[int, ...]) -> None:
    raw, scale = codes(3, 130, 300), RANDOM.uniform(0.1, 2, shape).astype(np.float32)
    wide = scale.reshape(3, *shape[1:] or (1, 1))
    if shape == (3, 2, 3):
        wide = np.kron(wide, np.ones((1, 128, 128), np.float32))[:, :130, :300]
    tensors, _ = undone({"experts.up": stored(raw, "F8_E4M3"), "experts.up_scale_inv": stored(scale)})
    assert np.array_equal(values(tensors["experts.up"]), by_torch(raw) * wide)
    assert np.array_equal(values(tensors["experts.up"], range(1, 2)), (by_torch(raw) * wide)[1:2])


@pytest.mark.parametrize("shape", [(3, 1, 300), (3, 300, 1)])
def test_stacked_experts_whose_outputs_come_last(shape: tuple[int, ...]) -> None:
    """As transformers saves Llama 4 in FBGEMM's FP8: both shapes are a scale for each output."""
    raw, scale = codes(3, 600, 300), RANDOM.uniform(0.1, 2, shape).astype(np.float32)
    config = {"quantization_config": {"quant_method": "fbgemm_fp8"}}
    tensors, found = undone({"experts.up": stored(raw, "F8_E4M3"), "experts.up_scale": stored(scale)}, config)
    assert np.array_equal(values(tensors["experts.up"]), by_torch(raw) * scale.reshape(3, 1, 300))
    assert found.format == "channel, e4m3"


def test_scales_of_activations_are_dropped_and_said() -> None:
    tensors, found = undone(
        {
            "a.weight": stored(codes(8, 128), "F8_E4M3"),
            "a.weight_scale": stored(np.float32([0.5])),
            "a.input_scale": stored(np.float32([0.1])),
            "a.k_scale": stored(np.float32([0.1])),
            "experts.up_activation_scale": stored(np.float32([0.1])),
            "norm.weight": stored(np.ones(8, np.float32)),
        }
    )
    assert list(tensors) == ["a.weight", "norm.weight"]
    assert [sorted(names) for names in found.dropped.values()] == [
        ["a.input_scale", "a.k_scale", "experts.up_activation_scale"]
    ]
    assert str(found).startswith("FP8 (tensor, e4m3): 1 quantized tensor; dropped 3 input_scale, k_scale, up_act")


def test_what_is_wrong_is_said() -> None:
    weight = stored(codes(256, 256), "F8_E4M3")
    with pytest.raises(CheckpointError, match=r"'a.weight' is F8_E4M3, and there is no scale for it"):
        undone({"a.weight": weight})
    with pytest.raises(CheckpointError, match=r"'a.weight_scale_inv' has shape \(4, 4\).* blocks are 128 x 128"):
        undone({"a.weight": weight, "a.weight_scale_inv": stored(np.ones((4, 4), np.float32))})
    with pytest.raises(CheckpointError, match=r"weight_block_size is \[128\]"):
        undone({"a.weight": weight}, {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128]}})
    with pytest.raises(CheckpointError, match="is of type I32, which holds no scales"):
        undone({"a.weight": weight, "a.weight_scale": stored(np.ones(1, np.int32))})
    scale = np.ones((2, 2), np.float32)
    scale[1, 0] = np.nan
    tensors, _ = undone({"a.weight": weight, "a.weight_scale_inv": stored(scale)})
    values(tensors["a.weight"], range(128))
    with pytest.raises(CheckpointError, match=r"'a.weight_scale_inv', element 2 is nan"):
        values(tensors["a.weight"], range(200, 201))


def test_a_code_that_is_no_number_stays_none() -> None:
    raw = codes(4, 128)
    raw[2, 5] = 0x7F
    tensors, _ = undone({"a.weight": stored(raw, "F8_E4M3"), "a.weight_scale": stored(np.float32([2.0]))})
    found = values(tensors["a.weight"])
    assert np.isnan(found[2, 5])
    assert np.isfinite(np.delete(found.reshape(-1), 2 * 128 + 5)).all()
