"""llama-quantize's command line and output: pure functions on recorded text, then the program itself."""

import subprocess
from pathlib import Path

import pytest
import tiny_gguf

from ggufkit.errors import LlamaCppError
from ggufkit.llamacpp.find import VARIABLE, find
from ggufkit.llamacpp.quantize import (
    FallbackLine,
    Options,
    TensorLine,
    argv,
    parse,
    parse_progress,
    parse_types,
    quantize,
)

TOOL = Path("bin/llama-quantize")

DATA = Path(__file__).parent / "data"
# As printed by the pinned llama-quantize; shortened.
RECORDED = (DATA / "llama-quantize.txt").read_text()
DRY_RUN = (DATA / "llama-quantize-dry-run.txt").read_text()


def test_argv_has_options_first_and_absolute_paths():
    options = Options(
        source=Path("--odd.gguf"),
        output=Path("4-bits.gguf"),
        type="Q4_K_M",
        threads=3,
        imatrix=Path("m.gguf"),
        allow_requantize=True,
        pure=True,
        leave_output_tensor=True,
        output_tensor_type="F16",
        token_embedding_type="Q8_0",
        tensor_types=((r"attn_[qk]", "Q5_K"), ("ffn", "IQ4_NL")),
        overrides=(("general.alignment", "int:32"),),
    )
    here = Path.cwd()
    assert argv(TOOL, options) == [
        "bin/llama-quantize",
        *("--allow-requantize", "--pure", "--leave-output-tensor"),
        *("--imatrix", "m.gguf", "--output-tensor-type", "F16", "--token-embedding-type", "Q8_0"),
        *("--tensor-type", "attn_[qk]=Q5_K", "--tensor-type", "ffn=IQ4_NL"),
        *("--override-kv", "general.alignment=int:32"),
        *(str(here / "--odd.gguf"), str(here / "4-bits.gguf"), "Q4_K_M", "3"),
    ]


def test_without_an_output_it_is_a_dry_run():
    options = Options(source=Path("/a.gguf"), output=None, type="Q8_0", threads=1)
    assert argv(TOOL, options) == ["bin/llama-quantize", "--dry-run", "/a.gguf", "Q8_0", "1"]


def test_what_a_run_printed_is_read():
    report = parse(RECORDED.splitlines())
    assert report.tensors == (
        TensorLine("output.weight", (256, 320, 1, 1), "f16", "q6_K"),
        TensorLine("output_norm.weight", (256, 1, 1, 1), "f32", None),
        TensorLine("token_embd.weight", (256, 320, 1, 1), "f16", None),
    )
    assert report.fallbacks == (
        FallbackLine("blk.0.ffn_down.weight", 288, "q4_K", "q5_0"),
        FallbackLine("output.weight", 264, "q8_0", "f16"),
    )
    assert (report.imatrix_dataset, report.imatrix_chunks) == ("wiki.txt", 3)
    assert (report.needs_imatrix, report.failure) == (False, None)


def test_what_a_dry_run_printed_is_read():
    report = parse(DRY_RUN.splitlines())
    assert report.tensors == (
        TensorLine("blk.3.ffn_down_exps.weight", (4096, 14336, 8, 1), "f16", "q6_K"),
        TensorLine("a name with - and [ in it", (4096, 1, 1, 1), "f32", None),
    )
    assert report.needs_imatrix


def test_a_failure_is_quoted():
    lines = ["llama_model_quantize: failed to quantize: unknown model architecture: 'martian'", "and more"]
    assert parse(lines).failure == "unknown model architecture: 'martian'"
    # On a full disk it ends a line that began with a tensor.
    line = (
        "[  10/  21] blk.0.ffn_gate.weight   - [   256,    512,      1,      1], type =    f16, converting to q8_0 .. "
        "llama_model_quantize: failed to quantize: basic_ios::clear: iostream error"
    )
    assert parse([line]).failure == "basic_ios::clear: iostream error"


def test_progress_is_read_from_tensor_lines_only():
    found = [progress for line in RECORDED.splitlines() if (progress := parse_progress(line))]
    assert found == [(1, 21), (2, 21), (3, 21)]


@pytest.mark.engine
@pytest.mark.parametrize("hidden", [256, 64])
def test_the_program_prints_what_we_read(hidden: int, tmp_path: Path):
    source = tiny_gguf.write_model(tmp_path / "model-F16.gguf", hidden=hidden, feed_forward=288)
    calls: list[tuple[int, int]] = []
    planned = quantize(Options(source=source, output=None, type="Q4_K_M", threads=1))
    done = quantize(
        Options(source=source, output=tmp_path / "out.gguf", type="Q4_K_M", threads=1),
        lambda finished, total: calls.append((finished, total)),
    )
    count = len(tiny_gguf.weights())
    assert calls == [(number, count) for number in range(1, count + 1)]
    assert planned == done
    assert {line.name for line in done.tensors} == set(tiny_gguf.weights())
    assert all(fallback.columns in {64, 288} for fallback in done.fallbacks)
    assert done.fallbacks


@pytest.mark.engine
def test_a_source_that_it_cannot_load_is_a_failure_in_its_own_words(tmp_path: Path):
    (tmp_path / "bad.gguf").write_bytes(b"GGUF nonsense that goes on for a while")
    report = quantize(Options(source=tmp_path / "bad.gguf", output=None, type="Q8_0", threads=1))
    assert report.failure is not None
    assert "failed to load model" in report.failure


@pytest.mark.engine
@pytest.mark.fault
def test_a_full_disk_is_a_failure_of_the_stream(tmp_path: Path):
    source = tiny_gguf.write_model(tmp_path / "model-F16.gguf")
    report = quantize(Options(source=source, output=Path("/dev/full"), type="Q8_0", threads=1))
    assert report.failure == "basic_ios::clear: iostream error"


@pytest.mark.engine
@pytest.mark.fault
def test_death_by_signal_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(VARIABLE, str(tiny_gguf.fake_build(tmp_path / "build", tiny_gguf.SEGFAULT)))
    options = Options(source=tmp_path / "a.gguf", output=tmp_path / "out.gguf", type="Q8_0", threads=1)
    with pytest.raises(LlamaCppError, match="signal SIGSEGV"):
        quantize(options)


@pytest.mark.engine
def test_the_help_still_lists_types():
    program = subprocess.run([find().tool("llama-quantize"), "--help"], capture_output=True, text=True, check=False)
    lines = {line.name: line for line in parse_types(program.stdout)}
    assert lines["Q4_K_M"].number == 15
    assert lines["COPY"].number is None
    assert lines["Q4_K"].description == "alias for Q4_K_M"
    assert len(lines) > 30
