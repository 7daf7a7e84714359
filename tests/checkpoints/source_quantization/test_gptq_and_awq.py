"""GPTQ and AWQ: every width and layout against packing by the definition, and what is wrong with a checkpoint."""

import json
import shutil
from pathlib import Path
from typing import Any

import library_fixtures
import numpy as np
import pytest
from gguf import quants
from stored_tensors import Stored, in_memory, stored, values

from ggufkit.checkpoints import open_checkpoint
from ggufkit.checkpoints.source_quantization import undo_quantization
from ggufkit.errors import CheckpointError

INPUTS, OUTPUTS, GROUP = 192, 96, 64
PLANES = {3: (2, 1), 5: (4, 1), 6: (4, 2), 7: (4, 2, 1)}
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)  # the output that lies in each four bits of a word


def packed(codes: np.ndarray, bits: int, *, planar: bool = False) -> np.ndarray:
    """Pack along the first axis, one bit after the other; planar ones 32 at a time, plane after plane."""
    found = []
    for column in codes.T:
        if planar:
            chunks = []
            for chunk in column.reshape(-1, 32):
                offset = 0
                for width in PLANES[bits]:
                    chunks += [(chunk >> offset & (2**width - 1), width)]
                    offset += width
        else:
            chunks = [(column, bits)]
        stream = [int(value) >> bit & 1 for part, width in chunks for value in part for bit in range(width)]
        stream += [0] * (-len(stream) % 32)
        found.append(
            [sum(bit << place for place, bit in enumerate(stream[at : at + 32])) for at in range(0, len(stream), 32)]
        )
    return np.array(found, np.uint32).T.view(np.int32).copy()


def gptq(
    bits: int = 4, *, planar: bool = False, less: int = 1, order: np.ndarray | None = None, group: int = GROUP
) -> tuple[Stored, np.ndarray]:
    """Make a module and the weight that it means."""
    random = np.random.default_rng(bits)
    groups = -(-INPUTS // group)
    codes = random.integers(0, 2**bits, (INPUTS, OUTPUTS))
    zeros = random.integers(less, 2**bits, (groups, OUTPUTS))
    scales = random.uniform(0.01, 2, (groups, OUTPUTS)).astype(np.float16)
    places = np.arange(INPUTS) // group if order is None else order
    weight = ((codes - zeros[places]) * scales[places].astype(np.float32)).T
    tensors = {
        "a.qweight": stored(packed(codes, bits, planar=planar)),
        "a.qzeros": stored(packed(zeros.T - less, bits, planar=planar).T),
        "a.scales": stored(scales),
        "a.g_idx": stored(places.astype(np.int32)),
    }
    return tensors, weight.astype(np.float32)


def config(bits: int = 4, **changes: Any) -> dict[str, Any]:
    settings = {"quant_method": "gptq", "bits": bits, "group_size": GROUP, **changes}
    return {"quantization_config": {key: value for key, value in settings.items() if value is not None}}


def undone(tensors: Stored, settings: dict[str, Any]) -> Any:
    found, _ = undo_quantization(settings, in_memory(tensors))
    return found["a.weight"]


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("version", ["gptq", "gptq_v2"])
def test_every_width(bits: int, version: str) -> None:
    tensors, expected = gptq(bits, less=1 if version == "gptq" else 0)
    weight = undone(tensors, config(bits, checkpoint_format=version))
    assert np.array_equal(values(weight), expected)
    for start, stop in ((0, 1), (OUTPUTS - 1, OUTPUTS), (5, 70), (32, 64)):
        assert np.array_equal(values(weight, range(start, stop)), expected[start:stop])


@pytest.mark.parametrize("bits", [3, 5, 6, 7])
def test_planes(bits: int) -> None:
    tensors, expected = gptq(bits, planar=True, less=0)
    assert np.array_equal(values(undone(tensors, config(bits, checkpoint_format="gptq_p"))), expected)


def test_groups_in_any_order_cannot_be_kept_in_blocks() -> None:
    order = np.random.default_rng(0).permutation(np.arange(INPUTS) // GROUP)
    tensors, expected = gptq(order=order)
    weight = undone(tensors, config(desc_act=True))
    assert np.array_equal(values(weight), expected)
    assert weight.blocks() is None
    assert undone(gptq()[0], config()).blocks() is not None


def test_without_order_the_groups_follow_each_other() -> None:
    tensors, expected = gptq()
    del tensors["a.g_idx"]
    assert np.array_equal(values(undone(tensors, config())), expected)
    assert np.array_equal(values(undone(tensors, {})), expected), "bits and groups can be told from the shapes"


def test_a_last_group_that_is_not_full() -> None:
    for tensors, expected, settings in (
        (*gptq(group=128), config(group_size=128)),
        (*awq(128), awq_config(group_size=128)),
    ):
        weight = undone(tensors, settings)
        assert np.array_equal(values(weight), expected)
        blocks = weight.blocks()
        assert np.allclose(
            quants.dequantize(blocks.encode(range(OUTPUTS)), blocks.type),
            expected,
            atol=np.abs(expected).max() * 2.0**-11,
        )


def test_zero_points_that_borrowed_from_their_neighbours() -> None:
    """GPTQModel takes one off whole words; AutoGPTQ's kernels let each value wrap around for itself."""
    tensors, expected = gptq(less=0)
    zeros = np.frombuffer(tensors["a.qzeros"][2], "<u4").reshape(tensors["a.qzeros"][1])
    tensors["a.qzeros"] = stored((zeros - np.uint32(0x11111111)).view(np.int32))
    assert (zeros & 15 == 0).any()
    written_by = {"meta": {"quantizer": ["gptqmodel:7.6.0"]}}
    assert np.array_equal(values(undone(tensors, config(**written_by))), expected)
    assert not np.array_equal(values(undone(tensors, config())), expected)


def test_modules_that_the_config_names_are_of_other_bits() -> None:
    tensors, expected = gptq(8)
    assert np.array_equal(values(undone(tensors, config(dynamic={r"+:a$": {"bits": 8}}))), expected)
    round_ = config(extra_config={"a": {"bits": 8}}, packing_format="auto_round:auto_gptq", quant_method="auto-round")
    assert np.array_equal(values(undone(tensors, round_)), expected)


def awq(group: int = GROUP) -> tuple[Stored, np.ndarray]:
    random = np.random.default_rng(1)
    groups = -(-INPUTS // group)
    codes, zeros = random.integers(0, 16, (INPUTS, OUTPUTS)), random.integers(0, 16, (groups, OUTPUTS))
    scales = random.uniform(0.01, 2, (groups, OUTPUTS)).astype(np.float16)
    places = np.arange(INPUTS) // group
    weight = ((codes - zeros[places]) * scales[places].astype(np.float32)).T

    def in_order(array: np.ndarray) -> np.ndarray:
        return packed(array.reshape(len(array), -1, 8)[:, :, AWQ_ORDER].reshape(array.shape).T, 4).T

    tensors = {"a.qweight": stored(in_order(codes)), "a.qzeros": stored(in_order(zeros)), "a.scales": stored(scales)}
    return tensors, weight.astype(np.float32)


def awq_config(**changes: Any) -> dict[str, Any]:
    return {
        "quantization_config": {"quant_method": "awq", "bits": 4, "group_size": GROUP, "version": "gemm", **changes}
    }


def test_awq() -> None:
    tensors, expected = awq()
    weight = undone(tensors, awq_config())
    assert np.array_equal(values(weight), expected)
    assert np.array_equal(values(weight, range(3, 50)), expected[3:50])
    assert np.array_equal(values(undone(awq(INPUTS)[0], awq_config(group_size=-1))), awq(INPUTS)[1])


def test_awq_without_zero_points_is_symmetric() -> None:
    tensors, _ = awq()
    del tensors["a.qzeros"]
    weight = undone(tensors, awq_config(zero_point=False))
    assert weight.blocks().type.name == "Q4_0"
    with pytest.raises(CheckpointError, match=r"a\.qzeros is missing"):
        undone(tensors, awq_config())


def test_the_tensors_count_where_the_config_names_another_layout() -> None:
    tensors, expected = awq()
    for method in ("gptq", "auto-round", None):
        settings = awq_config(quant_method=method)
        assert np.array_equal(values(undone(tensors, settings)), expected)


@pytest.mark.parametrize(("name", "settings"), [("quantize_config.json", None), ("quant_config.json", "awq")])
def test_settings_in_a_file_of_their_own(name: str, settings: str | None, tmp_path: Path) -> None:
    """As AutoGPTQ and AutoAWQ left them before config.json had a place for them."""
    fixture = "awq-4bit-g64-partly" if settings else "gptq-4bit-g128"
    shutil.copytree(library_fixtures.DATA / fixture, tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    whole = json.loads(path.read_text())
    (tmp_path / "model" / "quantize_config.json").unlink(missing_ok=True)
    told = whole.pop("quantization_config")
    del told["quant_method"]
    path.write_text(json.dumps(whole))
    (tmp_path / "model" / name).write_text(json.dumps(told))
    with open_checkpoint(library_fixtures.DATA / fixture) as expected, open_checkpoint(tmp_path / "model") as found:
        assert found.quantization == expected.quantization
        key = "model.layers.1.mlp.down_proj.weight"
        assert np.array_equal(values(found.tensors[key]), values(expected.tensors[key]))


def test_refusals() -> None:
    for change, settings, message in (
        ({"a.scales": None}, config(), r"a\.scales is missing"),
        ({"a.qzeros": None}, config(), r"a\.qzeros is missing"),
        ({}, config(group_size=32), r"a\.scales.*groups of 32"),
        ({}, config(group_size=0), "group_size is 0"),
        ({}, config(8), r"are of 4 bits, but the config says 8"),
        ({}, config(checkpoint_format="marlin"), "'marlin', known are gptq"),
        ({"a.qweight": stored(np.zeros((20, OUTPUTS), np.int32))}, config(), r"a\.qweight.* expected \(24, 96\)"),
        ({"a.qweight": stored(np.zeros((24, 80), np.int32))}, config(), r"a\.qweight.* expected \(24, 96\)"),
    ):
        tensors = {name: entry for name, entry in {**gptq()[0], **change}.items() if entry is not None}
        with pytest.raises(CheckpointError, match=message):
            undone(tensors, settings)
    tensors, _ = gptq(8)
    with pytest.raises(CheckpointError, match="are of 8 bits, but the config says 4"):
        undone(tensors, config(4))
    with pytest.raises(CheckpointError, match="'gemv'"):
        undone(awq()[0], awq_config(version="gemv"))
    with pytest.raises(CheckpointError, match="AWQ of 8 bits"):
        undone(awq()[0], awq_config(bits=8))


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize(("make", "settings"), [(gptq, config()), (awq, awq_config())])
def test_scales_that_are_no_numbers(make: Any, settings: dict[str, Any], value: float) -> None:
    tensors, _ = make()
    scales = np.frombuffer(tensors["a.scales"][2], "<f2").reshape(tensors["a.scales"][1]).copy()
    scales[1, 70] = value
    weight = undone({**tensors, "a.scales": stored(scales)}, settings)
    with pytest.raises(CheckpointError, match=r"'a\.scales', element \d+ is (nan|inf)"):
        values(weight)


def test_an_order_that_names_groups_that_are_not_there() -> None:
    tensors, _ = gptq()
    tensors["a.g_idx"] = stored(np.full(INPUTS, 3, np.int32))
    with pytest.raises(CheckpointError, match=r"a\.g_idx.*groups from 3 to 3"):
        values(undone(tensors, config()))
