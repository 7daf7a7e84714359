"""`ggufkit eval --against` and `--setup-baseline`: what is refused, and the table that all systems share."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from command_runs import Run

from ggufkit.cli import _baselines
from ggufkit.errors import MissingDependencyError
from ggufkit.evaluation.baselines import environments
from ggufkit.evaluation.baselines.documents import document_of
from ggufkit.evaluation.baselines.elsewhere import read_results
from ggufkit.evaluation.baselines.results import BaselineResult, Origin
from ggufkit.evaluation.baselines.runners.adapter import Recipe

EXAMPLE = Path(__file__).parents[2] / "docs" / "baseline-results.md"


@pytest.fixture
def results(tmp_path: Path) -> Path:
    found = re.search(r"```json\n(.*?)```", EXAMPLE.read_text(), re.DOTALL)
    assert found
    path = tmp_path / "results.json"
    path.write_text(found[1])
    return path


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--setup-baseline", "torch-int9"], 2, "no baseline is named 'torch-int9'"),
        ([], 2, "there is nothing to compare"),
        (["model.gguf"], 2, "there is nothing to compare"),
        (["{model}", "--against", "torch-int9", "-f", "{model}"], 2, "no baseline is named 'torch-int9'"),
        (["{model}", "{model}", "--checkpoint", ".", "-f", "{model}"], 2, "--checkpoint is what baselines run"),
        (["{model}", "--against", "torch-int8", "--checkpoint", "./no-such", "-f", "{model}"], 3, "no such folder"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments: list[str], code: int, said: str, tmp_path: Path, ggufkit: Run):
    model = tmp_path / "model.gguf"
    model.write_bytes(b"GGUF")
    ran = ggufkit("eval", *(argument.format(model=model) for argument in arguments))
    assert ran.code == code
    assert said in ran.err
    assert "Traceback" not in ran.err


def test_our_own_python_is_told_where_it_does(ggufkit: Run, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(environments, "_ours_will_do", lambda _: True)
    ran = ggufkit("eval", "--setup-baseline", "transformers", "--json")
    assert ran.code == 0
    (row,) = json.loads(ran.out)["environments"]
    assert row == {"name": "transformers", "python": sys.executable, "folder": None, "bytes": 0, "was_there": True}


def test_the_table_has_files_baselines_and_reasons(results: Path, capsys: pytest.CaptureFixture[str]):
    """The names of tasks decide the column; what is of another text is marked; empty rows say why."""
    base: dict[str, Any] = {
        "file": "demo-F16.gguf",
        "bytes": 7_130_000,
        "tasks": [{"task": "sums", "accuracy": 0.5}, {"task": "questions", "accuracy": 0.9923}],
        "perplexity": {"value": 2.7546, "standard_error": 0.0669},
    }
    test = {"model_filename": "/models/demo-F16.gguf", "peak_bytes": 82_000_000, "load_seconds": 0.25}
    bench = [
        {**test, "n_prompt": 512, "n_gen": 0, "median_ts": 1778.9},
        {**test, "n_prompt": 0, "n_gen": 128, "median_ts": 273.1},
    ]
    absent = BaselineResult(name="torch-int8", title="PyTorch", origin=Origin.NOT_RUN, why="no such processor")
    rows = [document_of(it) for it in (*read_results(results), absent)]
    _baselines.show({"base": base, "models": [], "bench": bench, "baselines": rows})
    heading, first, second, *rest = capsys.readouterr().out.strip().splitlines()[1:]
    words = [" ".join(line.split()) for line in (heading, first, second)]
    assert words == [
        "size memory load prompt/s reply/s perplexity KL divergence sums questions",
        "demo-F16.gguf 7.13 MB 82.00 MB 0.25 s 1,778.9 273.1 2.7546 ± 0.0669 50.00% 99.23%",
        "vllm-fp8 8.03 GB 11.50 GB 21.50 s 14,302.9 131.2 7.3512 ± 0.1172* 0.004120 ± 0.000110* 86.20%",
    ]
    assert second.endswith("86.20%")
    assert rest[0] == "torch-int8: not run: no such processor"
    assert "measured elsewhere, on one GPU of 80 GB (results.json); of another text" in rest[1]


def test_what_can_be_set_up_is_where_another_one_fails(ggufkit: Run, monkeypatch: pytest.MonkeyPatch):
    def set_up(recipe: Recipe, **_: object) -> environments.Made:
        if recipe.name == "torchao":
            raise MissingDependencyError("cannot install torchao==0", hint="look at the network")
        found = environments.Environment(recipe.name, Path("/made") / recipe.name, is_ours=False)
        return environments.Made(found, Path("/made"), 5, was_there=False)

    monkeypatch.setattr(environments, "set_up", set_up)
    ran = ggufkit("eval", "--setup-baseline", "torchao,bitsandbytes", "--quiet")
    assert ran.code == 3
    assert ran.out == "/made/bitsandbytes\n"
    assert "torchao: cannot install torchao==0" in ran.err
    assert "look at the network" in ran.err


def test_environments_are_listed_and_removed(ggufkit: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("GGUFKIT_CACHE", str(tmp_path))
    old = tmp_path / "baselines" / "torchao-0123456789"
    gone = tmp_path / "baselines" / "forgotten-0123456789"
    for folder in (old, gone):
        folder.mkdir(parents=True)
        (folder / "file").write_bytes(bytes(5000))
    listed = ggufkit("eval", "--list-baselines")
    assert listed.code == 0
    assert f"{old}: " in listed.out
    assert "--remove-baseline unused" in listed.out
    assert ggufkit("eval", "--remove-baseline", "no-such").code == 2
    removed = ggufkit("eval", "--remove-baseline", "forgotten", "--json")
    assert [it["folder"] for it in json.loads(removed.out)["removed"]] == [str(gone)]
    assert old.exists()
    assert ggufkit("eval", "--remove-baseline", "unused").out.startswith("removed torchao: ")
    assert not old.exists()
    assert "there was none of these" in ggufkit("eval", "--remove-baseline", "all").out
