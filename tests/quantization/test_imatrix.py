"""Importance matrices: made by llama-imatrix, merged, and looked at; what they do not reach is told."""

import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import tiny_gguf

from ggufkit.conversion import convert
from ggufkit.errors import InputError, LlamaCppError, OutputError, UsageError
from ggufkit.gguf_file.reader import TensorInfo, read_header
from ggufkit.gguf_file.tensor_types import TensorType
from ggufkit.llamacpp import imatrix as tool
from ggufkit.llamacpp.find import VARIABLE, find
from ggufkit.quantization.imatrix import coverage
from ggufkit.quantization.imatrix_content import Entry, reached, read_entries, statistics
from ggufkit.quantization.make_imatrix import Calibration, ImatrixOptions, coverage_of, make_imatrix

DEMO = Path(__file__).parents[2] / "ggufkit" / "demo_model"
TEXT = Calibration((DEMO / "heldout.txt").read_text(), "a text, with odd name.txt")
FEW = ImatrixOptions(ctx_size=128, chunks=3, threads=1)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model in F16."""
    path = tmp_path_factory.mktemp("demo") / "demo-F16.gguf"
    convert(DEMO, path)
    return path


@pytest.fixture(scope="module")
def matrix(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A matrix of three chunks."""
    return make_imatrix(tmp_path_factory.mktemp("matrix") / "m.gguf", model=model, calibration=TEXT, options=FEW).output


@pytest.mark.engine
def test_a_matrix_is_made_and_reaches_everything(model: Path, tmp_path: Path):
    calls = []
    result = make_imatrix(
        tmp_path / "m.gguf",
        model=model,
        calibration=TEXT,
        options=FEW,
        progress=lambda *call: calls.append(call),
    )
    assert (result.chunks, result.tensors) == (3, 28)
    assert 1 < result.perplexity < 20
    assert result.coverage.is_complete
    assert result.coverage.least == 3 * 128
    assert [call[1:] for call in calls][:4] == [(number, 3, "steps") for number in range(4)]
    assert read_header(result.output).metadata["imatrix.datasets"] == ["a_text_with_odd_name.txt"]
    assert [path.name for path in tmp_path.iterdir()] == ["m.gguf"]


@pytest.mark.engine
@pytest.mark.oracle
def test_the_sums_are_those_of_llama_imatrix_run_by_hand(model: Path, matrix: Path, tmp_path: Path):
    (tmp_path / "text.txt").write_text(TEXT.text)
    command = [find().tool("llama-imatrix"), "-m", model, "-f", tmp_path / "text.txt", "-o", tmp_path / "hand.gguf"]
    subprocess.run([*command, "-c", "128", "--chunks", "3", "-t", "1"], check=True, capture_output=True)
    ours, theirs = read_entries(matrix), read_entries(tmp_path / "hand.gguf")
    assert ours.keys() == theirs.keys()
    for name, entry in theirs.items():
        assert (ours[name].counts == entry.counts).all()
        np.testing.assert_allclose(ours[name].sums, entry.sums, rtol=1e-3)  # chunks are computed in other groups


@pytest.mark.engine
@pytest.mark.oracle
def test_matrices_of_both_formats_are_merged(model: Path, matrix: Path, tmp_path: Path):
    old = make_imatrix(tmp_path / "old.dat", model=model, calibration=TEXT, options=FEW).output
    assert old.read_bytes()[:4] != b"GGUF"
    assert coverage(old) == coverage(matrix)
    comma = tmp_path / "one,two.gguf"
    comma.write_bytes(matrix.read_bytes())
    merged = read_entries(make_imatrix(tmp_path / "merged.gguf", merge=[matrix, comma]).output)
    for name, entry in read_entries(matrix).items():
        np.testing.assert_allclose(merged[name].sums, 2 * entry.sums, rtol=1e-6)
        assert (merged[name].counts == 2 * entry.counts).all()
    more = make_imatrix(tmp_path / "more.gguf", model=model, calibration=TEXT, merge=[matrix], options=FEW)
    assert more.coverage.least == 2 * 3 * 128
    assert make_imatrix(tmp_path / "both.gguf", merge=[matrix, old]).tensors == 28


@pytest.mark.engine
@pytest.mark.oracle
def test_statistics_are_those_that_llama_imatrix_shows(matrix: Path):
    command = [find().tool("llama-imatrix"), "--in-file", matrix, "-m", matrix, "--show-statistics"]
    ours = {row.tensor: row for row in statistics(read_entries(matrix))}
    theirs: dict[str, list[float]] = {}
    for _ in range(
        300
    ):  # the program mostly ends before it has printed everything, on quick machines nine times in ten
        shown = subprocess.run(command, check=True, capture_output=True, text=True).stderr
        for line in shown.splitlines():
            fields = [field.strip() for field in re.sub(r"^[\d.]+ I ", "", line).split("\t")]
            if len(fields) == 13 and fields[0].isdigit():
                theirs[f"blk.{fields[0]}.{fields[1]}.weight"] = [float(field.rstrip("%")) for field in fields[2:]]
        if theirs.keys() == ours.keys():
            break
    assert theirs.keys() == ours.keys()
    for name, (
        total,
        least,
        greatest,
        mean,
        deviation,
        active,
        count,
        entropy,
        share,
        outliers,
        like,
    ) in theirs.items():
        row = ours[name]
        assert row.total == pytest.approx(total, abs=0.02, rel=1e-3)
        assert row.least == pytest.approx(least, abs=1e-4)
        assert row.greatest == pytest.approx(greatest, abs=1e-3, rel=1e-4)
        assert (row.mean, row.deviation) == pytest.approx((mean, deviation), abs=0.01)
        assert (row.count, row.active * 100) == pytest.approx((count, active), abs=0.01)
        assert row.entropy == pytest.approx(entropy, abs=1e-3)
        assert (row.normalized_entropy * 100, row.outliers * 100) == pytest.approx((share, outliers), abs=0.02)
        assert row.similarity == pytest.approx(like, abs=1e-3)


def test_experts_that_no_token_reached_are_named():
    def tensor(name: str, *shape: int) -> TensorInfo:
        return TensorInfo(name, shape, TensorType.F16, 0, 0)

    tensors = [
        tensor("token_embd.weight", 8, 100),
        tensor("blk.0.ffn_gate_inp.weight", 8, 4),
        tensor("blk.0.attn_norm.weight", 8),
        tensor("blk.0.attn_q.weight", 8, 8),
        tensor("blk.0.ffn_up_exps.weight", 8, 16, 4),
        tensor("blk.1.attn_q.weight", 8, 8),
        tensor("blk.2.attn_q.weight", 8, 8),
        tensor("blk.2.nextn.eh_proj.weight", 16, 8),
    ]
    ones = np.ones((4, 8), np.float32)
    entries = {
        "blk.0.attn_q.weight": Entry(ones[:1], np.array([100])),
        "blk.0.ffn_up_exps.weight": Entry(ones, np.array([50, 0, 7, 0])),
    }
    found = reached(entries, tensors)
    assert found.missing == ("blk.1.attn_q.weight",)  # the block that predicts further tokens is not run
    assert found.experts == {"blk.0.ffn_up_exps.weight": (1, 3)}
    assert (found.tensors, found.least, found.is_complete) == (3, 7, False)


@pytest.mark.engine
def test_coverage_needs_the_matrix_and_the_model(model: Path, matrix: Path):
    assert coverage_of(matrix, model).is_complete


@pytest.mark.engine
def test_what_cannot_become_a_matrix_is_refused(model: Path, matrix: Path, tmp_path: Path):
    out = tmp_path / "out.gguf"
    with pytest.raises(UsageError, match="needs a model and a text, or matrices"):
        make_imatrix(out, model=model)
    with pytest.raises(UsageError, match="must be positive"):
        make_imatrix(out, model=model, calibration=TEXT, options=ImatrixOptions(chunks=0))
    too_short = r"the text has only \d+ (bytes|tokens); chunks of 512 (tokens )?need 1,024"
    with pytest.raises(InputError, match=too_short) as caught:
        make_imatrix(out, model=model, calibration=Calibration("A few words.", "x"))
    assert "--ctx-size" in str(caught.value.hint)
    with pytest.raises(UsageError, match="same file"):
        make_imatrix(matrix, merge=[matrix, matrix])
    other = tiny_gguf.write_imatrix(tmp_path / "other.gguf", columns=64)
    with pytest.raises(InputError, match="they are of different models"):
        make_imatrix(out, merge=[matrix, other])
    with pytest.raises(InputError, match="no importance matrix"):
        make_imatrix(out, merge=[matrix, model])
    lacking = tiny_gguf.write_model(tmp_path / "lacking.gguf", leave_out=["blk.0.attn_q.weight"])
    with pytest.raises(InputError, match="cannot load"):
        make_imatrix(out, model=lacking, calibration=TEXT)
    assert not out.exists()


@pytest.mark.engine
@pytest.mark.fault
@pytest.mark.parametrize(
    ("script", "error", "reason"),
    [
        ("pass", OutputError, "would be none"),
        ("pathlib.Path(sys.argv[2]).write_bytes(b'GGUF' + bytes(20))", OutputError, "would be none"),
        ("os.kill(os.getpid(), 9)", LlamaCppError, "signal SIGKILL"),
        ("print('x: non-finite values detected in blk.0.q', file=sys.stderr) or sys.exit(1)", LlamaCppError, "non-fin"),
    ],
)
def test_a_bad_llama_imatrix_leaves_nothing(
    script: str, error: type[Exception], reason: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    build = tiny_gguf.fake_build(tmp_path / "build", "")
    program = build / "bin" / "llama-imatrix"
    python = (build / "bin" / "llama-quantize").read_text().splitlines()[0]
    program.write_text(f"{python}\nimport os, pathlib, sys\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv(VARIABLE, str(build))
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(error, match=reason):
        make_imatrix(out / "m.gguf", model=model, calibration=TEXT, options=FEW)
    assert not list(out.iterdir())


def test_the_command_line():
    options = tool.Options(
        output=Path("/o.gguf"), model=Path("/m.gguf"), text="t.txt", ctx_size=128, chunks=3, threads=2, gpu_layers=0
    )
    assert " ".join(tool.argv(Path("/llama-imatrix"), options)) == (
        "/llama-imatrix -o /o.gguf --output-format gguf -c 128 -m /m.gguf -f t.txt -b 512 -ub 512"
        " --chunks 3 -t 2 -ngl 0"
    )
    merging = tool.Options(output=Path("/o.dat"), legacy=True, in_files=(Path("/a"), Path("/b")), ctx_size=4096)
    command = " ".join(tool.argv(Path("/x"), merging))
    assert command == "/x -o /o.dat --output-format dat -c 4096 --in-file /a,/b -m /a"


def test_what_it_prints_is_understood():
    report = tool.parse(
        [
            "compute_imatrix: computing over 6 chunks",
            " n_ctx=256",
            "[1]6.9",
            "save_imatrix: entry '  blk.1.ffn_up_exps.weight' has partial data (75.00%)",
            "Final estimate: PPL = 2.5953 +/- 0.16",
        ]
    )
    assert report == tool.Report(6, 2.5953, None, (("blk.1.ffn_up_exps.weight", 0.75),), None)
