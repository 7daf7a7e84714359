"""Speed: llama-bench's own samples, merged over rounds, and what it does not say."""

import csv
import io
import json
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_gguf

from ggufkit import cli
from ggufkit.cli._bench_values import numbers
from ggufkit.errors import LlamaCppError, UsageError
from ggufkit.evaluation import speed
from ggufkit.llamacpp.bench import BenchOptions, BenchResult
from ggufkit.llamacpp.rpc import WorkerError

TINY = ["-p", "16", "-n", "4", "-r", "2", "-t", "1"]


def result(model: Path, sample: float, **changes: object) -> BenchResult:
    columns = {"samples_ts": [sample], "samples_ns": [int(1e9 / sample)], "n_threads": 1, **changes}
    return BenchResult(
        model_filename=str(model),
        model_type="llama",
        model_size=1,
        model_n_params=1,
        n_prompt=16,
        n_gen=0,
        n_depth=0,
        n_threads=1,
        n_batch=1,
        n_ubatch=1,
        avg_ts=sample,
        stddev_ts=0.0,
        samples_ts=(sample,),
        samples_ns=(int(1e9 / sample),),
        columns=columns,
    )


def test_models_take_turns_and_are_compared_round_by_round(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The machine gets slower from round to round, and the second model is always twice as fast."""
    models = tuple(tiny_gguf.write_model(tmp_path / name) for name in ("a.gguf", "b.gguf"))
    asked: list[str] = []

    def run(options: BenchOptions) -> tuple[BenchResult, ...]:
        [model] = options.models
        asked.append(model.name)
        assert options.repetitions == 1
        return (result(model, (1000 - 100 * ((len(asked) + 1) // 2)) * (2 if model.name == "b.gguf" else 1)),)

    monkeypatch.setattr(speed.bench, "run", run)
    found, [pair] = speed.measure(BenchOptions(models=models, repetitions=3), with_start=False)
    assert asked == ["a.gguf", "b.gguf"] * 3
    assert [len(model.tests[0].samples) for model in found] == [3, 3]
    assert set(pair.ratios) == {2}
    assert found[0].tests[0].low < found[0].tests[0].median < found[0].tests[0].high
    assert found[0].tests[0].columns["avg_ts"] == pytest.approx(sum(found[0].tests[0].samples) / 3)


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def run(*arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", ["ggufkit", "bench", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        captured = capsys.readouterr()
        assert not ended.value.code, captured.err
        return captured.out

    return run


@pytest.mark.engine
def test_all_formats_have_llama_benchs_columns_and_ours(tmp_path: Path, bench: Callable[..., str]):
    from ggufkit.conversion import convert

    demo = Path(__file__).parents[2] / "ggufkit" / "demo_model"
    model = tmp_path / "demo-F16.gguf"
    convert(demo, model)
    rows = json.loads(bench(model, *TINY, "-o", "json", "-q"))
    wanted = columns_of_llama_bench(model)
    assert [row["test"] for row in rows] == ["pp16", "tg4"]
    for row in rows:
        assert list(row)[: len(wanted)] == wanted
        assert len(row["samples_ts"]) == 2
        assert row["build_commit"]
        assert row["schema_version"] == 1
        assert row["file_bytes"] == model.stat().st_size
        assert row["load_seconds"] > 0
        assert row["first_token_seconds"] > 0
        assert row["peak_bytes"] > model.stat().st_size
        assert min(row["samples_ts"]) <= row["median_ts"] <= max(row["samples_ts"])
    table = list(csv.DictReader(io.StringIO(bench(model, *TINY, "-o", "csv", "--no-start", "-q"))))
    assert list(table[0]) == [name for name in rows[0] if not name.startswith("samples")]
    assert table[0]["load_seconds"] == ""
    lines = bench("-m", model, "-p", "8-16*2", "-n", "0", "-r", "1", "-o", "jsonl", "--no-start", "-q").splitlines()
    assert [json.loads(line)["n_prompt"] for line in lines] == [8, 16]
    text = bench(model, *TINY, "--no-start", "-q")
    assert [cell.strip() for cell in text.splitlines()[0].split("|")[1:8]] == [
        "model", "size", "params", "backend", "threads", "test", "t/s",
    ]  # fmt: skip
    assert "|  pp16 |" in text or "| pp16 |" in text


def columns_of_llama_bench(model: Path) -> list[str]:
    """Ask the program itself."""
    from ggufkit.llamacpp.find import find

    command = [find().tool("llama-bench"), "-m", model, "-p", "8", "-n", "0", "-r", "1", "-t", "1", "-o", "jsonl"]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    return list(json.loads(ran.stdout.splitlines()[0]))


@pytest.mark.parametrize(
    ("texts", "found"),
    [(["1,2"], (1, 2)), (["1", "4"], (1, 4)), (["1-4"], (1, 2, 3, 4)), (["256-1024+256"], (256, 512, 768, 1024)),
     (["1-9*2,3"], (1, 2, 4, 8, 3)), (["5-5"], (5,)), (None, ())],
)  # fmt: skip
def test_values_are_read_as_llama_bench_reads_them(texts: list[str] | None, found: tuple[int, ...]):
    assert numbers(texts, "-p") == found


@pytest.mark.parametrize("text", ["x", "4-1", "1-4*1", "1-4+0", "0-4*2", "-2", "1-99999", "1.5"])
def test_values_that_make_no_sense_are_refused(text: str):
    with pytest.raises(UsageError, match="-p"):
        numbers([text], "-p")


def test_a_worker_that_is_not_there_is_named(tmp_path: Path):
    model = tiny_gguf.write_model(tmp_path / "a.gguf")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound and not listening: whoever connects is refused
        where = f"127.0.0.1:{closed.getsockname()[1]}"
        with pytest.raises(WorkerError, match=where):
            speed.measure(BenchOptions(models=(model,), rpc=(where,)))


def test_a_worker_that_is_lost_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model = tiny_gguf.write_model(tmp_path / "a.gguf")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        where = f"127.0.0.1:{closed.getsockname()[1]}"
        monkeypatch.setattr(speed.rpc, "check", lambda _: [])

        def run(_: BenchOptions) -> tuple[BenchResult, ...]:
            raise LlamaCppError("llama-bench was ended by signal 6")

        monkeypatch.setattr(speed.bench, "run", run)
        with pytest.raises(LlamaCppError, match=f"the worker {where} is gone"):
            speed.measure(BenchOptions(models=(model,), rpc=(where,)))
