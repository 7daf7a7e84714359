"""compressed-tensors beside the fixtures: old and rare layouts, and what is wrong with a checkpoint."""

from typing import Any

import numpy as np
import pytest
import stored_tensors
from stored_tensors import in_memory, stored, values

from ggufkit.checkpoints.source_quantization import undo_quantization
from ggufkit.errors import CheckpointError

RANDOM = np.random.default_rng(5)
ROWS, COLUMNS = 40, 128


def config(**weights: Any) -> dict[str, Any]:
    arguments = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32, "symmetric": True, **weights}
    groups = {"group_0": {"targets": ["Linear"], "weights": arguments}}
    return {"quantization_config": {"quant_method": "compressed-tensors", "config_groups": groups}}


def packed(codes: np.ndarray, bits: int, *, dense: bool = True) -> np.ndarray:
    """Pack unsigned integers along the rows, bit by bit."""
    per_word = 32 // bits
    words = -(-codes.shape[1] * bits // 32) if dense else -(-codes.shape[1] // per_word)
    found = np.zeros((len(codes), words), np.uint64)
    for column, values_ in enumerate(codes.T.astype(np.uint64)):
        word, shift = divmod(column * bits, 32) if dense else (column // per_word, column % per_word * bits)
        found[:, word] |= (values_ << np.uint64(shift)) & np.uint64(0xFFFFFFFF)
        if shift + bits > 32:
            found[:, word + 1] |= values_ >> np.uint64(32 - shift)
    return found.astype(np.uint32).view(np.int32)


def integers(bits: int = 4, *, group: int = 32, dense: bool = True) -> tuple[stored_tensors.Stored, np.ndarray, Any]:
    """Make a packed symmetric weight; also give its codes and scales."""
    codes = RANDOM.integers(0, 2**bits, (ROWS, COLUMNS))
    scale = RANDOM.uniform(0.01, 0.1, (ROWS, COLUMNS // group)).astype(np.float32)
    parts = {
        "a.weight_packed": stored(packed(codes, bits, dense=dense)),
        "a.weight_scale": stored(scale),
        "a.weight_shape": stored(np.array([ROWS, COLUMNS])),
    }
    return parts, codes - 2 ** (bits - 1), scale


def undone(tensors: stored_tensors.Stored, settings: Any) -> Any:
    return undo_quantization(settings, in_memory(tensors))


@pytest.mark.parametrize("bits", range(2, 9))
def test_every_width(bits: int) -> None:
    """Densely as since version 0.15, and with unused bits in each word as before."""
    for dense in (True, False):
        parts, codes, scale = integers(bits, dense=dense)
        expected = codes.astype(np.float32) * np.repeat(scale, 32, axis=1)
        tensors, _ = undone(parts, config(num_bits=bits))
        assert np.array_equal(values(tensors["a.weight"]), expected)
        assert np.array_equal(values(tensors["a.weight"], range(7, 33)), expected[7:33])


@pytest.mark.parametrize("bits", [3, 4, 8])
def test_packed_zero_points(bits: int) -> None:
    """They are packed along the rows, of which any may be asked for."""
    parts, codes, scale = integers(bits)
    zeros = RANDOM.integers(0, 2**bits, (ROWS, COLUMNS // 32))
    parts["a.weight_zero_point"] = stored(packed(zeros.T, bits).T.copy())
    centered = codes - np.repeat(zeros - 2 ** (bits - 1), 32, axis=1)
    expected = centered.astype(np.float32) * np.repeat(scale, 32, axis=1)
    tensors, found = undone(parts, config(num_bits=bits, symmetric=False))
    for rows in (range(ROWS), range(31, 34), range(39, 40)):
        assert np.array_equal(values(tensors["a.weight"], rows), expected[rows.start : rows.stop])
    assert "asymmetric" in found.format


def test_activation_order() -> None:
    parts, codes, scale = integers()
    places = RANDOM.permutation(np.arange(COLUMNS) // 32).astype(np.int32)
    parts["a.weight_g_idx"] = stored(places)
    tensors, _ = undone(parts, config(actorder="group"))
    assert np.array_equal(values(tensors["a.weight"]), codes.astype(np.float32) * scale[:, places])
    assert tensors["a.weight"].blocks() is None, "columns of a block have scales of different groups"


def test_the_group_of_a_module_is_found_by_its_name_a_pattern_and_its_class() -> None:
    settings = config()
    groups = settings["quantization_config"]["config_groups"]
    eight = {"num_bits": 8, "type": "int", "strategy": "channel"}
    groups["group_1"] = {"targets": ["re:.*mlp.*"], "weights": eight}
    wide, _, _ = integers(8, group=128)
    narrow, _, _ = integers(4)
    parts = {name.replace("a.", "layers.0.mlp.up."): part for name, part in wide.items()}
    parts |= {name.replace("a.", "layers.0.q."): part for name, part in narrow.items()}
    _, found = undone(parts, settings)
    assert found.format == "1 int 8 bits, channel; 1 int 4 bits, group 32"


@pytest.mark.parametrize("other", ["Embedding", "LlamaAttention"])
def test_classes_other_than_linear_come_last(other: str) -> None:
    groups = config()["quantization_config"]["config_groups"]
    eight = {"targets": [other], "weights": {"num_bits": 8, "type": "int", "strategy": "channel"}}
    settings = {"quant_method": "compressed-tensors", "config_groups": {"first": eight, **groups}}
    _, found = undone(integers()[0], {"quantization_config": settings})
    assert found.format == "int 4 bits, group 32"


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_one_zero_point_for_the_tensor(shape: tuple[int, ...]) -> None:
    codes = RANDOM.integers(-128, 128, (ROWS, COLUMNS)).astype(np.int8)
    parts = {
        "a.weight": stored(codes),
        "a.weight_scale": stored(np.full(shape, 0.5, np.float32)),
        "a.weight_zero_point": stored(np.full(shape, 3, np.int8)),
    }
    tensors, _ = undone(parts, config(num_bits=8, strategy="tensor", group_size=None, symmetric=False))
    assert np.array_equal(values(tensors["a.weight"], range(5, 9)), (codes[5:9].astype(np.float32) - 3) / 2)


@pytest.mark.parametrize("told", [[128, 128], "128x128"])
def test_integers_of_eight_bits_in_blocks(told: Any) -> None:
    codes = RANDOM.integers(-127, 128, (256, 256)).astype(np.int8)
    scale = RANDOM.uniform(0.01, 0.1, (2, 2)).astype(np.float32)
    settings = config(num_bits=8, strategy="block", group_size=None, block_structure=told)
    tensors, _ = undone({"a.weight": stored(codes), "a.weight_scale": stored(scale)}, settings)
    assert np.array_equal(values(tensors["a.weight"]), codes * np.kron(scale, np.ones((128, 128), np.float32)))


def test_plain_modules_stay() -> None:
    parts, _, _ = integers()
    tensors, found = undone({**parts, "lm_head.weight": stored(np.ones((4, 4), np.float32))}, config())
    assert list(tensors) == ["a.weight", "lm_head.weight"]
    assert found.weights == 1


def test_scales_beside_plain_weights_are_dropped_and_said() -> None:
    """As they are left when a model is saved with its weights not compressed."""
    plain = {
        "b.weight": stored(np.ones((4, 32), np.float32)),
        "b.weight_scale": stored(np.ones((4, 1), np.float32)),
        "b.weight_zero_point": stored(np.zeros((4, 1), np.int8)),
    }
    for parts in (plain, {**plain, **integers()[0]}, {k: v for k, v in plain.items() if "zero" not in k}):
        tensors, found = undone(parts, config())
        assert set(tensors) == {f"{name[0]}.weight" for name in parts}
        assert "stored plain" in str(found)


def refused(parts: stored_tensors.Stored, settings: Any, why: str) -> None:
    with pytest.raises(CheckpointError, match=why):
        values(undone(parts, settings)[0]["a.weight"])


def test_what_is_wrong_is_said() -> None:
    parts, _, scale = integers()
    without = {name: part for name, part in parts.items() if name != "a.weight_scale"}
    refused(without, config(), r"'a.weight_packed' has no a.weight_scale")
    refused(parts, config(group_size=64), r"by the config's group size of 64 there are 2")
    eight, _, _ = integers(8)
    refused(eight, config(num_bits=4), r"32 words for 128 columns, which is 8 bits; the config says 4")
    bytes_ = {"a.weight": stored(np.full((ROWS, COLUMNS), 9, np.int8)), "a.weight_scale": parts["a.weight_scale"]}
    refused(bytes_, config(num_bits=4), r"'a.weight' goes from 9 to 9, by the config's 4 bits .* from -8 to 7")
    floats = {**bytes_, "a.weight": stored(np.zeros((ROWS, COLUMNS), np.uint8), "F8_E4M3")}
    refused(floats, config(num_bits=4), r"'a.weight' is F8_E4M3, floats of 8 bits, but the config says 4")
    refused(floats, config(num_bits=8, block_structure="128"), r"block_structure is \[128\]")
    refused({**parts, "a.weight_shape": stored(np.array([ROWS, 96]))}, config(), r"16 words for 96 columns")
    refused({**parts, "a.weight_shape": stored(np.array([ROWS + 1, COLUMNS]))}, config(), r"says 41 x 128")
    scale[3, 1] = np.nan
    refused({**parts, "a.weight_scale": stored(scale)}, config(), r"'a.weight_scale', element 13 is nan")
    refused({**parts, "b.weight_scale": stored(scale)}, config(), r"'b.weight_scale' belongs to no weight")
    refused({"a.weight": stored(np.ones((4, 4), np.int8)), **{f"b{k}": v for k, v in parts.items()}}, config(), "is I8")


def test_what_cannot_be_undone_is_refused_by_its_name() -> None:
    parts, _, _ = integers()
    settings = config()
    refused(parts, {"quantization_config": {**settings["quantization_config"], "format": "marlin-24"}}, "'marlin-24'")
    sparse = {**settings["quantization_config"], "sparsity_config": {"format": "sparse-24-bitmask"}}
    refused(parts, {"quantization_config": sparse}, "sparse weights")
    transform = {"config_groups": {"u": {"type": "hadamard", "apply": [{"location": "input", "targets": ["Linear"]}]}}}
    rotated = {**settings["quantization_config"], "transform_config": transform}
    refused(parts, {"quantization_config": rotated}, "a transform at 'input' must run with the model")
