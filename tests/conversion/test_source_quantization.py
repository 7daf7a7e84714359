"""Checkpoints that libraries quantized become GGUF files of the same weights and logits, and keep integers."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import dequantized_gguf
import library_fixtures
import numpy as np
import pytest
from gguf import GGUFReader
from tokenless import EXACT

from ggufkit.conversion import OutputType, convert
from ggufkit.inference.engine import Engine

HEADS = {"q_proj": 4, "k_proj": 2}
PARTS = {
    "q_proj": "attn_q",
    "k_proj": "attn_k",
    "v_proj": "attn_v",
    "o_proj": "attn_output",
    "gate_proj": "ffn_gate",
    "up_proj": "ffn_up",
    "down_proj": "ffn_down",
}
# What `--outtype source` keeps, by checkpoint: how many tensors of what type. The others have nothing to keep.
Q4_0, Q4_1, Q8_0 = ({kind: 14} for kind in ("Q4_0", "Q4_1", "Q8_0"))
KEPT: dict[str, dict[str, int]] = {
    "angelslim-w4a8": Q4_0,
    "auto-round-awq-4bit-g128": Q4_0,
    "auto-round-own-3bit-g64-asymmetric": Q4_1,
    "awq-4bit-g64-partly": {"Q4_1": 12},
    "bitnet-packed": {"TQ2_0": 10, "Q4_0": 4},
    "bitsandbytes-int8": {"Q8_0": 12},
    "compressed-tensors-mixed": {"Q4_0": 6, "Q8_0": 4},
    "compressed-tensors-mxfp4": {"MXFP4": 14},
    "compressed-tensors-nvfp4": {"NVFP4": 14},
    "compressed-tensors-w3a16": Q4_0,
    "compressed-tensors-w4a16-g128": Q4_0,
    "compressed-tensors-w4a16-g32-asymmetric": Q4_1,
    "compressed-tensors-w4a8": Q4_0,
    "compressed-tensors-w8a8-smoothquant": Q8_0,
    "gptq-2bit-g64-asymmetric": Q4_1,
    "gptq-3bit-g128": Q4_0,
    "gptq-4bit-g128": Q4_0,
    "gptq-4bit-row": Q4_0,
    "gptq-8bit-g64": Q8_0,
    "gptq-v2-4bit-g128-asymmetric": Q4_1,
    "hqq-4bit-g64": Q4_1,
    "torchao-int8-bin": Q8_0,
    "torchao-int8-dynamic": Q8_0,
}


def made(name: str, folder: Path, outtype: OutputType) -> Path:
    output = folder / f"{outtype}.gguf"
    convert(library_fixtures.DATA / name, output, outtype=outtype)
    return output


def logits(path: Path, tokens: list[int]) -> np.ndarray:
    with Engine.open(path, EXACT) as engine:
        return engine.logits(tokens)


def difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


def original_rows(values: np.ndarray, part: str) -> np.ndarray:
    """Put rows where the checkpoint has them: llama.cpp turns pairs of neighbours, transformers halves of a head."""
    if part not in HEADS:
        return values
    half = values.shape[0] // HEADS[part] // 2
    return values.reshape(HEADS[part], half, 2, -1).swapaxes(1, 2).reshape(values.shape)


@pytest.mark.engine
@pytest.mark.parametrize("name", library_fixtures.NAMES)
def test_float32_file_is_what_the_library_means(name: str, tmp_path: Path, figure: Callable[[str, str], None]) -> None:
    told = library_fixtures.reference(name)
    path = made(name, tmp_path, OutputType.F32)
    tensors = {tensor.name: np.array(tensor.data) for tensor in GGUFReader(path).tensors}
    for layer in range(2):
        for part, ours in PARTS.items():
            module = "self_attn" if part in ("q_proj", "k_proj", "v_proj", "o_proj") else "mlp"
            expected = told.tensors[f"model.layers.{layer}.{module}.{part}.weight"]
            values = original_rows(tensors[f"blk.{layer}.{ours}.weight"], part)
            if name in library_fixtures.ROUNDED_TWICE:
                assert expected.error(values) < library_fixtures.ROUNDING["float16"]
            else:
                assert expected.is_exactly(values)
    # The library's logits are of weights that it may have rounded to 16 bits.
    types = {"float16"} if name in library_fixtures.ROUNDED_TWICE else {each.dtype for each in told.tensors.values()}
    rounding = max(library_fixtures.ROUNDING[dtype] for dtype in types)
    found = difference(logits(path, told.tokens), told.logits)
    figure(f"{name}, logits", f"{found:.1e}")
    assert found < 2e-5 + 2 * rounding


@pytest.mark.engine
@pytest.mark.parametrize("name", library_fixtures.NAMES)
def test_source_keeps_integers(name: str, tmp_path: Path, figure: Callable[[str, str], None]) -> None:
    """The same weights, but for scales, and offsets that are several times as large, rounded to 16 bits."""
    tokens = library_fixtures.reference(name).tokens
    whole, source = made(name, tmp_path, OutputType.F32), made(name, tmp_path, OutputType.SOURCE)
    types = Counter(tensor.tensor_type.name for tensor in GGUFReader(source).tensors)
    assert {kind: count for kind, count in types.items() if kind not in ("F32", "F16", "BF16")} == KEPT.get(name, {})
    if sum(KEPT.get(name, {}).values()) < 12:
        return
    meant = dequantized_gguf.write(source, tmp_path / "meant.gguf")
    found = difference(logits(meant, tokens), logits(whole, tokens))
    figure(f"{name}, kept", f"{found:.1e}")
    assert found < (1e-3 if "Q4_1" not in types else 3e-3)
