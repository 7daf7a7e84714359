"""bitsandbytes, torchao, HQQ and BitNet: layouts by definition, and what is wrong with a checkpoint."""

import json
from typing import Any

import library_fixtures
import numpy as np
import pytest
from gguf import quants
from stored_tensors import Stored, in_memory, read, stored, values

from ggufkit.checkpoints.source_quantization import undo_quantization
from ggufkit.errors import CheckpointError

NAME = "model.layers.0.self_attn.q_proj"


def made(fixture: str) -> tuple[Stored, dict[str, Any]]:
    """Give the tensors of a module of a fixture, and its config."""
    folder = library_fixtures.DATA / fixture
    tensors = {name: entry for name, entry in read(folder / "model.safetensors").items() if name.startswith(NAME)}
    return tensors, json.loads((folder / "config.json").read_text())


def undone(tensors: Stored, settings: dict[str, Any]) -> Any:
    found, _ = undo_quantization(settings, in_memory(tensors))
    return found[f"{NAME}.weight"]


def refused(fixture: str, message: str, *, without: str = "", **changes: Any) -> None:
    """Expect a refusal of a fixture's module with parts changed (by the end of their names) or left out."""
    tensors, settings = made(fixture)
    settings["quantization_config"] |= changes.pop("config", {})
    for name, entry in {
        name: entry for end, entry in changes.items() for name in tensors if name.endswith(end)
    }.items():
        tensors[name] = entry
    if without:
        tensors = {name: entry for name, entry in tensors.items() if not name.endswith(without)}
    with pytest.raises(CheckpointError, match=message):
        values(undone(tensors, settings))


def test_bitsandbytes_refusals() -> None:
    refused("bitsandbytes-int8", r"q_proj\.SCB' is missing", without="SCB")
    refused("bitsandbytes-int8", r"SCB'.*shape \(3,\)", SCB=stored(np.ones(3, np.float32)))
    refused("bitsandbytes-int8", "is nan, which no scale can be", SCB=stored(np.full(128, np.nan, np.float32)))
    refused(
        "bitsandbytes-int8",
        "load_in_4bit, but the tensors are int8",
        config={"load_in_4bit": True, "load_in_8bit": False},
    )
    refused(
        "bitsandbytes-nf4",
        "load_in_8bit, but the tensors are nf4",
        config={"load_in_4bit": False, "load_in_8bit": True},
    )
    refused("bitsandbytes-int8", "an order of one kind of GPU", weight_format=stored(np.array(2, np.uint8)))
    refused("bitsandbytes-nf4", r"weight\.absmax' is missing", without="weight.absmax")
    refused("bitsandbytes-nf4", r"quant_map' is missing", without="quant_map")
    refused("bitsandbytes-nf4", r"is missing, which tells the shape", without="__nf4")
    refused("bitsandbytes-nf4", "holds 16384 bytes, but its shape", __nf4=described(shape=[128, 255]))
    refused("bitsandbytes-nf4", r"absmax' has shape \(512,\), expected \(256,\)", __nf4=described(blocksize=128))
    for broken in (b"{", b"[]", b"\xff", b'{"shape": []}'):
        refused("bitsandbytes-nf4", "is no description", __nf4=("U8", (len(broken),), broken))
    refused("bitsandbytes-nf4", "describes what cannot be", __nf4=described(blocksize=0))
    refused("bitsandbytes-nf4-double", r"nested_absmax' is missing", without="nested_absmax")
    refused("bitsandbytes-nf4-double", "is nan", nested_absmax=stored(np.full(2, np.nan, np.float32)))


def described(**changes: Any) -> tuple[str, tuple[int, ...], bytes]:
    told = {"quant_type": "nf4", "blocksize": 64, "dtype": "bfloat16", "shape": [128, 256], **changes}
    raw = json.dumps(told).encode()
    return "U8", (len(raw),), raw


def test_four_bit_blocks_that_cross_rows() -> None:
    """A matrix of odd width: rows begin within a byte, and blocks go on in the next row."""
    random = np.random.default_rng(2)
    codes, table = random.integers(0, 16, 7 * 45), random.normal(size=16).astype(np.float32)
    absmax = random.uniform(0.1, 2, 5).astype(np.float32)
    padded = np.append(codes, 0).astype(np.uint8)
    tensors = {
        f"{NAME}.weight": stored(padded[0::2] << 4 | padded[1::2]),
        f"{NAME}.weight.absmax": stored(absmax),
        f"{NAME}.weight.quant_map": stored(table),
        f"{NAME}.weight.quant_state.bitsandbytes__nf4": described(shape=[7, 45]),
    }
    expected = (table[codes] * np.repeat(absmax, 64)[: 7 * 45]).reshape(7, 45)
    weight = undone(tensors, {})
    assert np.array_equal(values(weight), expected)
    for row in range(7):
        assert np.array_equal(values(weight, range(row, row + 1)), expected[row : row + 1])


def test_torchao_refusals() -> None:
    refused("torchao-int8-dynamic", r"_weight_scale' is missing", without="_weight_scale")
    refused(
        "torchao-int8-dynamic",
        "which does not fit a weight",
        _weight_scale=stored(np.ones((3, 1), np.float32)),
        _weight_zero_point=stored(np.zeros((3, 1), np.int8)),
    )
    refused(
        "torchao-int8-dynamic", "only int8 matrices are known", _weight_qdata=stored(np.zeros((128, 128), np.uint8))
    )
    said = {"default": {"_type": "Int4WeightOnlyConfig"}}
    refused("torchao-int8-dynamic", "int4 .*, but the tensors are int8", config={"quant_type": said})
    refused("torchao-int8-dynamic", "is inf", _weight_scale=stored(np.full((128, 1), np.inf, np.float32)))


def test_torchao_zero_points_count() -> None:
    tensors, settings = made("torchao-int8-dynamic")
    plain = values(undone(tensors, settings))
    scale = np.frombuffer(tensors[f"{NAME}._weight_scale"][2], "<f4").reshape(128, 1)
    tensors[f"{NAME}._weight_zero_point"] = stored(np.full((128, 1), 3, np.int8))
    shifted = undone(tensors, settings)
    assert np.allclose(values(shifted), plain - 3 * scale)
    assert shifted.blocks() is None


def test_hqq_refusals() -> None:
    refused("hqq-4bit-g64", r"q_proj\.scale is missing", without=".scale")
    refused("hqq-4bit-g64", r"q_proj\.zero is missing", without=".zero")
    refused("hqq-4bit-g64", "do not fit groups of 32", group_size=stored(np.int32(32)))
    refused("hqq-4bit-g64", "packing '5bit_u8'", packing=stored(np.frombuffer(b"5bit_u8", np.uint8)))
    refused("hqq-4bit-g64", "does not fit 4bit_u8", W_q=stored(np.zeros((255, 64), np.uint8)))
    refused("hqq-4bit-g64", "of 4 bits .*, but nbits is 8", nbits=stored(np.int32(8)))
    said = {"weight_quant_params": {"nbits": 8, "group_size": 64}}
    refused("hqq-4bit-g64", "of 4 bits .*, but nbits is 8", config={"quant_config": said})
    refused("hqq-4bit-g64", "quantized itself", scale=stored(np.zeros((512, 1), np.uint8)))
    refused("hqq-4bit-g64", "is nan", zero=stored(np.full((512, 1), np.nan, np.float32)))


def test_bitnet_refusals_and_blocks() -> None:
    refused("bitnet-packed", "no scale can be", weight_scale=stored(np.float32([0])))
    refused("bitnet-packed", r"weight_scale' has shape \(2,\)", weight_scale=stored(np.float32([1, 2])))
    refused("bitnet-packed", "codes of 3", **{".weight": stored(np.full((32, 256), 255, np.uint8))})
    weight = undone(*made("bitnet-packed"))
    blocks = weight.blocks()
    meant = quants.dequantize(blocks.encode(range(5, 100)), blocks.type)
    assert blocks.type.name == "TQ2_0"
    assert np.allclose(meant, values(weight, range(5, 100)), rtol=2.0**-11)
