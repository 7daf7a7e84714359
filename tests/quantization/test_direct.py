"""The direct engine writes the bytes of llama-quantize, whatever the source, the type and the importance matrix."""

import subprocess
from pathlib import Path

import numpy as np
import pytest
import tiny_gguf

from ggufkit.errors import GgufFileError, UsageError
from ggufkit.gguf_file.reader import read_header
from ggufkit.llamacpp.find import find
from ggufkit.progress import silent
from ggufkit.quantization.direct import quantize_stream, refuse_what_only_the_binary_does, rows_of
from ggufkit.quantization.plan import QuantizeOptions, plan
from ggufkit.quantization.types import TYPES, quantization_type

pytestmark = pytest.mark.engine

WITHOUT_IMATRIX = [kind.name for kind in TYPES if not kind.needs_imatrix]
SMALL = ["Q4_0", "Q4_K_M", "Q8_0", "IQ4_XS"]


def direct(source: Path, kinds: list[str], folder: Path, options: QuantizeOptions | None = None) -> dict[str, bytes]:
    """Quantize to all types in one pass."""
    folder.mkdir(exist_ok=True)
    jobs = []
    for kind in kinds:
        (folder / kind).touch()
        jobs.append((plan(source, quantization_type(kind), options), folder / kind))
    stream = rows_of(jobs[0][0].sources, threads=2, progress=silent, stage="Quantizing")
    quantize_stream(read_header(source), jobs, stream)
    return {kind: path.read_bytes() for kind, (_, path) in zip(kinds, jobs, strict=True)}


@pytest.mark.oracle
@pytest.mark.parametrize(
    ("model", "kinds"),
    [
        ("even-F16", WITHOUT_IMATRIX),
        ("even-F32", SMALL),
        ("odd-F16", SMALL),
        ("ragged-F16", ["Q8_0", "Q4_K_M"]),
        ("aligned-F16", SMALL),
    ],
)
def test_all_types_in_one_pass(model: str, kinds: list[str], models: Path, tmp_path: Path):
    source = models / f"{model}.gguf"
    kinds = [kind for kind in kinds if fits(source, kind)]
    ours = direct(source, kinds, tmp_path / "ours")
    # llama-quantize pads with 32 bytes whatever the source says; left alone it would copy a key that lies.
    flags = ["--override-kv", "general.alignment=int:32"] if model == "aligned-F16" else []
    theirs = {kind: tiny_gguf.by_hand(source, kind, tmp_path / "theirs.gguf", *flags) for kind in kinds}
    assert kinds
    assert [kind for kind in kinds if ours[kind] != theirs[kind]] == []


def fits(source: Path, kind: str) -> bool:
    try:
        plan(source, quantization_type(kind))
    except UsageError:
        return False
    return True


@pytest.mark.oracle
@pytest.mark.parametrize("form", ["gguf", "legacy"])
def test_importance_matrix(form: str, models: Path, tmp_path: Path):
    write = tiny_gguf.write_imatrix if form == "gguf" else tiny_gguf.write_legacy_imatrix
    matrix = write(tmp_path / "importance")
    kinds = ["Q2_K", "Q4_K_M", "Q4_0", "IQ3_XXS", "IQ2_XXS"] if form == "gguf" else ["Q4_K_M"]
    source = models / "even-F16.gguf"
    ours = direct(source, kinds, tmp_path / "ours", QuantizeOptions(imatrix=matrix))
    for kind in kinds:
        theirs = tiny_gguf.by_hand(source, kind, tmp_path / "theirs.gguf", "--imatrix", matrix)
        assert ours[kind] == theirs, kind


@pytest.mark.oracle
def test_experts_have_an_importance_of_their_own(tmp_path: Path):
    source, matrix = tiny_gguf.write_experts(tmp_path / "experts.gguf", tmp_path / "importance.gguf")
    ours = direct(source, ["Q4_K_M", "IQ3_S"], tmp_path / "ours", QuantizeOptions(imatrix=matrix))
    for kind, content in ours.items():
        assert content == tiny_gguf.by_hand(source, kind, tmp_path / "theirs.gguf", "--imatrix", matrix), kind


@pytest.mark.oracle
def test_a_split_source_becomes_one_file(models: Path, tmp_path: Path):
    splitter = find().tool("llama-gguf-split")
    whole = models / "even-F16.gguf"
    subprocess.run([splitter, "--split-max-tensors", "8", whole, tmp_path / "part"], check=True, capture_output=True)
    first = min(tmp_path.glob("part-*.gguf"))
    ours = direct(first, ["Q4_K_M"], tmp_path / "ours")
    assert ours["Q4_K_M"] == tiny_gguf.by_hand(first, "Q4_K_M", tmp_path / "theirs.gguf")


def test_a_source_that_is_not_finite_is_refused(models: Path, tmp_path: Path):
    source = tmp_path / "nan.gguf"
    source.write_bytes((models / "even-F32.gguf").read_bytes())
    tensor = next(tensor for tensor in read_header(source).tensors if tensor.name == "blk.1.ffn_up.weight")
    with source.open("r+b") as file:
        file.seek(tensor.offset + 4 * 1000)
        file.write(np.float32("nan").tobytes())
    with pytest.raises(GgufFileError, match=r"blk\.1\.ffn_up\.weight"):
        direct(source, ["Q4_K_M"], tmp_path / "ours")


def test_a_quantized_source_is_left_to_the_binary(models: Path, tmp_path: Path):
    tiny_gguf.by_hand(models / "even-F16.gguf", "Q8_0", tmp_path / "q8.gguf")
    again = plan(tmp_path / "q8.gguf", quantization_type("Q4_K_M"), QuantizeOptions(allow_requantize=True))
    with pytest.raises(UsageError, match="Q8_0"):
        refuse_what_only_the_binary_does(again)
