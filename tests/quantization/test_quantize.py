"""Quantizing for real: the bytes of llama-quantize, planned exactly, and nothing left behind when it goes wrong."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny_gguf

from ggufkit.errors import (
    GgufFileError,
    GgufkitError,
    InputError,
    LlamaCppError,
    OutputError,
    UsageError,
    VerificationError,
)
from ggufkit.gguf_file.reader import read_header
from ggufkit.gguf_file.tensor_types import TensorType
from ggufkit.llamacpp.find import VARIABLE, find
from ggufkit.quantization.plan import Fallback, QuantizeOptions, plan
from ggufkit.quantization.quantize import quantize, quantize_all
from ggufkit.quantization.types import TYPES, quantization_type

pytestmark = pytest.mark.engine

Q4 = quantization_type("Q4_K_M")


@pytest.mark.oracle
@pytest.mark.parametrize("kind", ["Q4_K_M", "q8_0", "Q2_K", "IQ4_XS", "BF16", "F32"])
def test_bytes_equal_those_of_llama_quantize_run_by_hand(kind: str, models: Path, tmp_path: Path):
    source = models / "even-F16.gguf"
    result = quantize(source, kind, tmp_path / "ours.gguf", QuantizeOptions(threads=2))
    assert (tmp_path / "ours.gguf").read_bytes() == tiny_gguf.by_hand(source, kind, tmp_path / "theirs.gguf")
    assert result.type == kind.upper()


@pytest.mark.oracle
@pytest.mark.parametrize(
    ("options", "flags"),
    [
        (QuantizeOptions(pure=True), ["--pure"]),
        (QuantizeOptions(leave_output_tensor=True), ["--leave-output-tensor"]),
        (QuantizeOptions(output_tensor_type=TensorType.F32), ["--output-tensor-type", "f32"]),
        (QuantizeOptions(token_embedding_type=TensorType.Q8_0), ["--token-embedding-type", "q8_0"]),
        (
            QuantizeOptions(tensor_types=((r"blk\.0\.attn_[qk]", TensorType.IQ4_NL), ("ffn_up", TensorType.Q5_K))),
            ["--tensor-type", r"blk\.0\.attn_[qk]=iq4_nl", "--tensor-type", "ffn_up=q5_K"],
        ),
    ],
    ids=["pure", "leave output", "output F32", "embedding", "tensors"],
)
def test_options_do_what_they_do_by_hand(options: QuantizeOptions, flags: list[str], models: Path, tmp_path: Path):
    source = models / "even-F32.gguf"
    result = quantize(source, Q4, tmp_path / "ours.gguf", options)
    assert (tmp_path / "ours.gguf").read_bytes() == tiny_gguf.by_hand(
        source, "Q4_K_M", tmp_path / "theirs.gguf", *flags
    )
    types = {tensor.name: tensor.type for tensor in read_header(result.output).tensors}
    if options.output_tensor_type is not None:
        assert types["output.weight"] is options.output_tensor_type
    if options.tensor_types:
        assert types["blk.0.attn_k.weight"] is TensorType.IQ4_NL


@pytest.mark.parametrize("model", ["even-F16", "even-F32", "odd-F16", "ragged-F16", "aligned-F16"])
@pytest.mark.parametrize("kind", ["Q4_K_M", "Q8_0"])
def test_the_plan_knows_the_result_to_the_byte(model: str, kind: str, models: Path, tmp_path: Path):
    source, output = models / f"{model}.gguf", tmp_path / "out.gguf"
    planned = plan(source, quantization_type(kind))
    result = quantize(source, kind, output)
    header = read_header(output)
    assert planned.bytes_after == result.bytes_after == output.stat().st_size
    assert {tensor.name: tensor.to for tensor in planned.tensors} == {t.name: t.type for t in header.tensors}
    assert result.bits_per_weight_after == 8 * header.tensor_bytes / header.elements
    assert result.bits_per_weight_before == 8 * read_header(source).tensor_bytes / header.elements
    assert result.bytes_before == source.stat().st_size
    assert sum(result.tensor_types.values()) == result.tensors == len(header.tensors)


def test_every_type_can_be_planned_for_every_shape(models: Path, tmp_path: Path):
    options = QuantizeOptions(imatrix=tiny_gguf.write_imatrix(tmp_path / "imatrix.gguf"))
    for kind in TYPES:
        planned = plan(models / "even-F16.gguf", kind, options)
        assert abs(planned.bits_per_weight_after - kind.bits_per_weight) < 1.5, kind
        if kind.name == "Q1_0":
            with pytest.raises(UsageError, match="Q1_0 does not fit the tensors of this model"):
                plan(models / "ragged-F16.gguf", kind)
        else:
            ragged = plan(
                models / "ragged-F16.gguf", kind
            )  # F16 wherever a type would not fit, so nothing needs a matrix
            assert {tensor.to.name for tensor in ragged.tensors} <= {"F32", "F16", "BF16"}


def test_fallbacks_are_told(models: Path, tmp_path: Path):
    result = quantize(models / "odd-F16.gguf", Q4, tmp_path / "out.gguf")
    assert result.fallbacks == (
        Fallback("blk.0.ffn_down.weight", 288, TensorType.Q4_K, TensorType.Q5_0),
        Fallback("blk.1.ffn_down.weight", 288, TensorType.Q6_K, TensorType.Q8_0),
    )
    assert quantize(models / "even-F16.gguf", Q4, tmp_path / "out.gguf").fallbacks == ()


def test_the_output_layer_that_falls_back_in_silence_is_told(tmp_path: Path):
    source = tiny_gguf.write_model(tmp_path / "narrow-F16.gguf", hidden=64, feed_forward=96)
    planned = plan(source, Q4)
    assert planned.fallbacks[0] == Fallback("output.weight", 64, TensorType.Q6_K, TensorType.Q8_0)
    # Together they are all tensors that are not what the recipe gives to a model of friendly widths.
    unlike = {
        tensor.name for tensor in planned.tensors if tensor.to not in {TensorType.F32, TensorType.Q4_K, TensorType.Q6_K}
    }
    assert {fallback.tensor for fallback in planned.fallbacks} == unlike


def test_an_alignment_that_llama_quantize_gets_wrong_is_put_right(models: Path, tmp_path: Path):
    source = models / "aligned-F16.gguf"
    assert read_header(source).alignment == 256
    quantize(source, "Q8_0", tmp_path / "ours.gguf")
    assert read_header(tmp_path / "ours.gguf").alignment == 32
    tiny_gguf.by_hand(source, "Q8_0", tmp_path / "theirs.gguf")
    with pytest.raises(GgufFileError):  # should this fail one day, llama-quantize has been mended
        read_header(tmp_path / "theirs.gguf")


def test_several_types_in_one_call(models: Path, tmp_path: Path):
    jobs = [(name, tmp_path / f"{name}.gguf") for name in ("Q8_0", "Q4_0")]
    first, second = quantize_all(models / "even-F16.gguf", jobs)
    assert (first.type, second.type) == ("Q8_0", "Q4_0")
    assert first.bytes_after > second.bytes_after > 0
    with pytest.raises(UsageError, match="same file"):
        quantize_all(models / "even-F16.gguf", [("Q8_0", tmp_path / "x.gguf"), ("Q4_0", tmp_path / "x.gguf")])


def test_progress_ends_where_it_should(models: Path, tmp_path: Path):
    calls = []
    quantize(models / "even-F16.gguf", "Q8_0", tmp_path / "o.gguf", progress=lambda *call: calls.append(call))
    total = read_header(models / "even-F16.gguf").tensor_bytes
    assert {call[0] for call in calls} == {"Quantizing to Q8_0"}
    assert calls[0][1:3] == (0, total)
    assert calls[-1][1:3] == (total, total)
    assert [call[1] for call in calls] == sorted(call[1] for call in calls)
    assert len(calls) > 20


def test_a_split_model_is_taken_whole(models: Path, tmp_path: Path):
    split = [find().tool("llama-gguf-split"), "--split-max-size", "1M", models / "even-F16.gguf", tmp_path / "part-F16"]
    subprocess.run(split, check=True, capture_output=True)
    parts = sorted(tmp_path.glob("part-F16-*.gguf"))
    assert len(parts) > 1
    result = quantize(parts[0], "Q8_0", tmp_path / "out.gguf")
    assert result.bytes_before == sum(part.stat().st_size for part in parts)
    assert plan(parts[0], quantization_type("Q8_0")).bytes_after == result.bytes_after
    with pytest.raises(GgufFileError, match="not its first") as caught:
        quantize(parts[1], "Q8_0", tmp_path / "out.gguf")
    assert "00001-of" in str(caught.value.hint)
    with pytest.raises(UsageError, match="same file"):
        quantize(parts[0], "Q8_0", parts[1])
    parts[1].unlink()
    with pytest.raises(GgufFileError, match="no such file"):
        quantize(parts[0], "Q8_0", tmp_path / "out.gguf")


# --- importance matrices


@pytest.mark.oracle
@pytest.mark.parametrize("write", [tiny_gguf.write_imatrix, tiny_gguf.write_legacy_imatrix])
def test_an_importance_matrix_is_used(write: Callable[[Path], Path], models: Path, tmp_path: Path):
    source, matrix = models / "even-F16.gguf", write(tmp_path / "imatrix")
    options = QuantizeOptions(imatrix=matrix)
    planned = plan(source, quantization_type("Q2_K_S"), options)
    result = quantize(source, "Q2_K_S", tmp_path / "ours.gguf", options)
    theirs = tiny_gguf.by_hand(source, "Q2_K_S", tmp_path / "theirs.gguf", "--imatrix", matrix)
    assert (tmp_path / "ours.gguf").read_bytes() == theirs
    assert planned.bytes_after == result.bytes_after
    assert read_header(result.output).metadata["quantize.imatrix.dataset"] == "some-text.txt"
    assert set(result.without_importance) == {"output.weight", "token_embd.weight"}


@pytest.mark.parametrize("kind", ["IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M", "IQ3_XXS", "Q2_K_S"])
def test_types_that_need_an_importance_matrix_are_refused_before_they_start(kind: str, models: Path, tmp_path: Path):
    with pytest.raises(UsageError, match=f"{kind} needs an importance matrix") as caught:
        quantize(models / "even-F16.gguf", kind, tmp_path / "out.gguf")
    assert "--imatrix" in str(caught.value.hint)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("with_matrix", [False, True])
@pytest.mark.parametrize("name", ["token_embd.weight", "output.weight"])
def test_ends_in_types_that_libggml_would_end_the_process_for_are_refused(
    name: str, with_matrix: bool, models: Path, tmp_path: Path
):
    matrix = tiny_gguf.write_imatrix(tmp_path / "m.gguf") if with_matrix else None
    options = QuantizeOptions(tensor_types=((f"^{name}$", TensorType.IQ2_XXS),), imatrix=matrix)
    with pytest.raises(UsageError, match=f"{name} cannot be IQ2_XXS: that type takes importance data, and") as caught:
        quantize(models / "even-F16.gguf", "Q4_K_M", tmp_path / "out.gguf", options)
    assert "IQ2_S" in str(caught.value.hint)
    assert not (tmp_path / "out.gguf").exists()


def test_matrices_that_would_stop_it_midway_are_refused_before(models: Path, tmp_path: Path):
    source = models / "even-F16.gguf"
    gap = tiny_gguf.write_imatrix(tmp_path / "gap.gguf", leave_out=["blk.1.ffn_up.weight"])
    alien = tiny_gguf.write_imatrix(tmp_path / "alien.gguf", columns=64)
    (tmp_path / "text.dat").write_text("hello")
    (tmp_path / "longer.dat").write_text("no model, and no importance matrix either")
    legacy = tiny_gguf.write_legacy_imatrix(tmp_path / "legacy.dat", leave_out=["blk.0.attn_q.weight"])
    cases = {
        gap: "nothing for 1 tensor that needs it, as 'blk.1.ffn_up.weight'",
        alien: "not for this model: it has 64 values",
        source: "but no importance matrix",
        tmp_path / "text.dat": "text.dat is no importance matrix: ",
        tmp_path / "longer.dat": "longer.dat is no importance matrix: ",
        legacy: "nothing for 1 tensor that needs it, as 'blk.0.attn_q.weight'",
        tmp_path / "missing.gguf": "no such importance matrix",
        tmp_path / ("x" * 200): "longer than 127 bytes",
    }
    for matrix, reason in cases.items():
        with pytest.raises(InputError, match=reason):
            quantize(source, "IQ2_XXS", tmp_path / "out.gguf", QuantizeOptions(imatrix=matrix))
    assert plan(source, Q4, QuantizeOptions(imatrix=gap)).without_importance  # where it is no need, it may have gaps


# --- refused


def test_a_quantized_source_is_refused_unless_that_is_meant(models: Path, tmp_path: Path):
    small = quantize(models / "even-F16.gguf", "Q8_0", tmp_path / "small-Q8_0.gguf").output
    with pytest.raises(UsageError, match=r"quantized already \(16 Q8_0 tensors\)") as caught:
        quantize(small, Q4, tmp_path / "out.gguf")
    assert "--allow-requantize" in str(caught.value.hint)
    assert not (tmp_path / "out.gguf").exists()
    assert quantize(small, Q4, tmp_path / "out.gguf", QuantizeOptions(allow_requantize=True)).bytes_after > 0


def test_outputs_that_must_not_be_written_are_refused(models: Path, tmp_path: Path):
    source = tmp_path / "model-F16.gguf"
    source.write_bytes((models / "even-F16.gguf").read_bytes())
    before = source.stat()
    (tmp_path / "symbolic.gguf").symlink_to(source)
    (tmp_path / "hard.gguf").hardlink_to(source)
    for output in (source, tmp_path / "symbolic.gguf", tmp_path / "hard.gguf", tmp_path / "." / "model-F16.gguf"):
        with pytest.raises(UsageError, match="same file"):
            quantize(source, Q4, output)
    with pytest.raises(UsageError, match="is a folder"):
        quantize(source, Q4, tmp_path)
    with pytest.raises(OutputError, match="does not exist"):
        quantize(source, Q4, tmp_path / "nowhere" / "out.gguf")
    assert (source.stat().st_size, source.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)


def test_tensor_types_that_cannot_be_are_refused(models: Path, tmp_path: Path):
    cases = {
        (("ffn_dwon", TensorType.Q8_0),): "no matrix's name matches 'ffn_dwon'",
        (("(", TensorType.Q8_0),): "not a regular expression",
    }
    for tensor_types, reason in cases.items():
        with pytest.raises(UsageError, match=reason):
            quantize(models / "even-F16.gguf", Q4, tmp_path / "o.gguf", QuantizeOptions(tensor_types=tensor_types))
    with pytest.raises(UsageError, match="no effect together with BF16"):
        plan(
            models / "even-F16.gguf", quantization_type("BF16"), QuantizeOptions(tensor_types=(("v", TensorType.Q8_0),))
        )
    with pytest.raises(UsageError, match="rows of 264 weights do not divide into blocks of 256"):
        plan(models / "ragged-F16.gguf", Q4, QuantizeOptions(output_tensor_type=TensorType.Q6_K))


def test_sources_that_are_no_models_are_refused(models: Path, tmp_path: Path):
    (tmp_path / "text.gguf").write_text("no model")
    matrix = tiny_gguf.write_imatrix(tmp_path / "imatrix.gguf")
    half = tmp_path / "half.gguf"
    half.write_bytes((models / "even-F16.gguf").read_bytes()[:-1000])
    martian = tmp_path / "martian.gguf"
    martian.write_bytes(
        (models / "even-F16.gguf").read_bytes().replace(b"\5\0\0\0\0\0\0\0llama", b"\5\0\0\0\0\0\0\0Llama", 1)
    )
    cases = {
        tmp_path / "text.gguf": "not a GGUF file",
        matrix: "not a model|llama.cpp does not accept",
        half: "incomplete",
        martian: "llama.cpp does not accept .*Llama",
        tmp_path / "missing.gguf": "no such file",
    }
    for source, reason in cases.items():
        with pytest.raises(GgufFileError, match=reason):
            quantize(source, Q4, tmp_path / "out.gguf")
    assert not (tmp_path / "out.gguf").exists()


# --- a llama-quantize that misbehaves


@pytest.mark.fault
@pytest.mark.parametrize(
    ("misbehave", "error", "reason"),
    [
        (tiny_gguf.HALF, OutputError, "would not be whole: .* incomplete"),
        (tiny_gguf.NOTHING, OutputError, "would not be whole: .* is empty"),
        (tiny_gguf.HEADLESS, OutputError, "would not be whole: .* is not a GGUF file"),
        (tiny_gguf.TAIL, VerificationError, "behind the last tensor"),
        (tiny_gguf.COPY, VerificationError, "16 tensors of .* not be what it had announced"),
        (tiny_gguf.SEGFAULT, LlamaCppError, "signal SIGSEGV"),
        (tiny_gguf.FULL_DISK, OutputError, "could not write on"),
        (tiny_gguf.FAILURE, LlamaCppError, "quantized data validation failed"),
    ],
    ids=["half a file", "no file", "no header", "a tail", "other types", "dies", "disk full", "gives up"],
)
def test_a_bad_llama_quantize_never_leaves_a_file(
    misbehave: str,
    error: type[GgufkitError],
    reason: str,
    models: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setenv(VARIABLE, str(tiny_gguf.fake_build(tmp_path / "build", misbehave)))
    output = tmp_path / "outputs" / "out.gguf"
    output.parent.mkdir()
    for old in (None, b"the old model"):
        if old:
            output.write_bytes(old)
        with pytest.raises(error, match=reason):
            quantize(models / "even-F16.gguf", Q4, output)
        assert [path.name for path in output.parent.iterdir()] == (["out.gguf"] if old else [])
    assert output.read_bytes() == b"the old model"


@pytest.mark.fault
def test_a_disk_that_is_too_small_is_found_before_any_work(
    models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    class Usage:
        free = 1000

    needed = plan(models / "even-F16.gguf", Q4).bytes_after
    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage)
    with pytest.raises(OutputError, match=f"{needed:,} bytes needed, 1,000 free"):
        quantize(models / "even-F16.gguf", Q4, tmp_path / "out.gguf")
    assert not list(tmp_path.iterdir())


def test_a_folder_without_permission_is_refused(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    real = os.access  # a real mode would not stop root
    monkeypatch.setattr("os.access", lambda path, mode: Path(path) != tmp_path and real(path, mode))
    with pytest.raises(OutputError, match="no permission"):
        quantize(models / "even-F16.gguf", Q4, tmp_path / "out.gguf")


def test_the_result_holds_what_the_source_held(models: Path, tmp_path: Path):
    # Dequantized by the gguf package: far from its source by what Q8_0 loses, and no more.
    import gguf

    quantize(models / "even-F16.gguf", "Q8_0", tmp_path / "out.gguf")
    source = {tensor.name: tensor for tensor in gguf.GGUFReader(models / "even-F16.gguf").tensors}
    for tensor in gguf.GGUFReader(tmp_path / "out.gguf").tensors:
        values = gguf.dequantize(tensor.data, tensor.tensor_type).reshape(-1)
        before = np.asarray(source[tensor.name].data, np.float32).reshape(-1)
        assert np.abs(values - before).max() <= np.abs(before).max() / 127
