"""Files made of checkpoints that others quantized: kept blocks are compared byte for byte, the rest as always."""

from pathlib import Path

import damaged_gguf
import library_fixtures
import numpy as np
import pytest

from ggufkit.conversion import OutputType, convert
from ggufkit.evaluation.results import Check, Grade
from ggufkit.evaluation.verify import verify
from ggufkit.quantization.quantize import quantize

INTEGERS = library_fixtures.DATA / "compressed-tensors-w4a16-g32-asymmetric"
FLOATS = library_fixtures.DATA / "compressed-tensors-nvfp4"
OTHERS = ("metadata", "tokens", "chat-template", "logits")


def tensors(model: Path, checkpoint: Path) -> Check:
    found = verify(model, checkpoint, skip=OTHERS)
    return next(check for check in found.checks if check.name == "tensors")


@pytest.mark.parametrize(
    ("checkpoint", "outtype", "kept"),
    [(INTEGERS, OutputType.SOURCE, 14), (INTEGERS, OutputType.F16, 0), (FLOATS, OutputType.BF16, 14)],
)
def test_what_was_converted_is_exact(checkpoint: Path, outtype: OutputType, kept: int, tmp_path: Path) -> None:
    convert(checkpoint, tmp_path / "out.gguf", outtype=outtype)
    check = tensors(tmp_path / "out.gguf", checkpoint)
    assert check.grade is Grade.EXACT
    assert check.summary == f"20 of 20 bit-exact; the source was compressed-tensors, {kept} tensors hold its own blocks"


def test_a_changed_block_is_found(tmp_path: Path) -> None:
    def change(blocks: np.ndarray) -> np.ndarray:
        blocks[3, 6] ^= 0x77
        return blocks

    convert(INTEGERS, tmp_path / "out.gguf", outtype=OutputType.SOURCE)
    damaged_gguf.with_tensor(tmp_path / "out.gguf", tmp_path / "bad.gguf", "blk.1.ffn_up.weight", change)
    check = tensors(tmp_path / "bad.gguf", INTEGERS)
    assert check.grade is Grade.FAILED
    assert "blk.1.ffn_up.weight" in check.summary


def test_a_scale_beside_a_weight_belongs_to_it(tmp_path: Path) -> None:
    convert(FLOATS, tmp_path / "out.gguf", outtype=OutputType.BF16)
    damaged_gguf.with_tensor(tmp_path / "out.gguf", tmp_path / "bad.gguf", "blk.0.attn_q.scale", lambda one: one * 2)
    check = tensors(tmp_path / "bad.gguf", FLOATS)
    assert check.grade is Grade.FAILED
    assert "blk.0.attn_q.scale" in "".join(check.details)


@pytest.mark.engine
def test_a_file_quantized_anew_is_judged_as_ever(tmp_path: Path) -> None:
    """Its type could have been kept, its bytes are others: they are those that libggml makes of the weights."""
    convert(INTEGERS, tmp_path / "f16.gguf")
    quantize(tmp_path / "f16.gguf", "Q4_1", tmp_path / "q.gguf")
    check = tensors(tmp_path / "q.gguf", INTEGERS)
    assert check.grade is Grade.EXACT
    assert "0 tensors hold its own blocks" in check.summary
