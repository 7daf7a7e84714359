"""What is looked at while llama-quantize writes is at its final place, and whole, when it is called sound."""

from pathlib import Path

import pytest
import tiny_gguf

from ggufkit.gguf_file.reader import read_header
from ggufkit.llamacpp.find import VARIABLE
from ggufkit.quantization.check import check_output_files
from ggufkit.quantization.follower import Follower
from ggufkit.quantization.plan import QuantizationPlan, QuantizeOptions, plan
from ggufkit.quantization.types import quantization_type

pytestmark = pytest.mark.engine


@pytest.fixture(params=["without a matrix", "with one"])
def planned(request: pytest.FixtureRequest, tmp_path: Path) -> QuantizationPlan:
    model = tiny_gguf.write_model(tmp_path / "model-F16.gguf")
    matrix = tiny_gguf.write_imatrix(tmp_path / "matrix.gguf") if request.param == "with one" else None
    return plan(model, quantization_type("Q4_K_M"), QuantizeOptions(imatrix=matrix))


def follow_to_the_end(planned: QuantizationPlan, output: Path) -> Follower:
    with Follower(planned, output) as follower:
        for number in range(1, len(planned.tensors) + 1):
            follower.begun(number)
    return follower


def quantized(planned: QuantizationPlan, output: Path) -> Path:
    flags = ["--imatrix", planned.options.imatrix] if planned.options.imatrix else []
    output.write_bytes(tiny_gguf.by_hand(planned.source, "Q4_K_M", output, *flags))
    return output


def test_all_but_the_last_two_are_seen_where_they_lie(planned: QuantizationPlan, tmp_path: Path):
    output = quantized(planned, tmp_path / "out.gguf")
    assert follow_to_the_end(planned, output).sound == set(read_header(output).tensors[:-2])


def test_a_block_that_is_not_finite_is_not_called_sound(planned: QuantizationPlan, tmp_path: Path):
    output = quantized(planned, tmp_path / "out.gguf")
    bad = next(tensor for tensor in read_header(output).tensors if tensor.type.is_quantized)
    content = bytearray(output.read_bytes())
    content[bad.offset : bad.offset + bad.size] = b"\xff" * bad.size
    output.write_bytes(content)
    sound = follow_to_the_end(planned, output).sound
    assert bad not in sound
    with pytest.raises(Exception, match=f"tensor '{bad.name}' of .* not finite"):
        check_output_files(planned, [output], output, threads=1, sound=sound)


def test_a_file_that_does_not_come_is_no_failure_of_the_follower(
    planned: QuantizationPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    assert follow_to_the_end(planned, tmp_path / "absent.gguf").sound == set()
    monkeypatch.setenv(VARIABLE, str(tmp_path))
    assert follow_to_the_end(planned, tmp_path / "absent.gguf").sound == set()
