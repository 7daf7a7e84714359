"""Speed: llama-bench's own samples, merged over rounds, and what it does not say."""

import csv
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny_gguf

from ggufkit import cli
from ggufkit.evaluation import speed
from ggufkit.llamacpp.bench import BenchOptions, BenchResult

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
        return (result(model, (1000 - 100 * len(asked) // 2 * 2) * (2 if model.name == "b.gguf" else 1)),)

    monkeypatch.setattr(speed.bench, "run", run)
    found, [pair] = speed.measure(BenchOptions(models=models, repetitions=3), with_start=False)
    assert asked == ["a.gguf", "b.gguf"] * 3
    assert [len(model.tests[0].samples) for model in found] == [3, 3]
    assert pair.low < 2 < pair.high * 1.5
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
    document = json.loads(bench(model, *TINY, "-o", "json", "-q"))
    rows = document["tests"]
    assert [row["test"] for row in rows] == ["pp16", "tg4"]
    for row in rows:
        assert len(row["samples_ts"]) == 2
        assert row["build_commit"]
        assert row["file_bytes"] == model.stat().st_size
        assert row["load_seconds"] > 0
        assert row["first_token_seconds"] > 0
        assert row["peak_bytes"] > model.stat().st_size
        assert min(row["samples_ts"]) <= row["median_ts"] <= max(row["samples_ts"])
    table = list(csv.DictReader(io.StringIO(bench(model, *TINY, "-o", "csv", "--no-start", "-q"))))
    assert table[0].keys() == rows[0].keys()
    assert table[0]["load_seconds"] == ""
    text = bench(model, *TINY, "--no-start", "-q")
    assert text.startswith("| model | size |")
    assert "| pp16 |" in text
