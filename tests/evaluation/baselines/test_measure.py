"""The frame, with a model of two tokens' memory: figures by their formulas, failures as rows, deaths survived."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import fake_baseline
import numpy as np
import pytest

from ggufkit.errors import InputError, UsageError
from ggufkit.evaluation.answers.tasks import read_task
from ggufkit.evaluation.baselines import processes
from ggufkit.evaluation.baselines.results import Against, BaselineResult, Origin
from ggufkit.evaluation.evaluate import EvaluationOptions, evaluate
from ggufkit.evaluation.evaluation_results import Evaluation, document
from ggufkit.evaluation.likelihood.logits_file import LogitsFile, open_logits_file
from ggufkit.evaluation.likelihood.passes import Running

pytestmark = pytest.mark.engine

DEMO = Path(__file__).parents[3] / "ggufkit" / "demo_model"
LENGTH, CHUNKS = 64, 6
FAILING = {
    "cannot": "no such processor",
    "raises": "ValueError: the first line",
    "imports": "no_such_package",
    "killed": "killed",
    "exits": "status 9",
    "small": "vocabulary",
    "absent": "not installed: ggufkit eval --setup-baseline absent",
    "huge": "GB of memory to load",
}
Measured = Callable[..., Evaluation]
TEXT = "The old bridge was closed in March, and nobody in the village could say for how long it would be so. " * 20


@pytest.fixture(scope="module")
def measured(demo_f32: Path, checkpoint: Path, fakes: Path, tmp_path_factory: pytest.TempPathFactory) -> Measured:
    folder = tmp_path_factory.mktemp("measured")
    text = folder / "text.txt"
    text.write_text(TEXT)
    task = folder / "task.jsonl"
    lines = [
        {"prompt": "Say yes or no.", "choices": [" yes", " no"], "answer": 0},
        {"prompt": "Which?", "choices": ["first thing", "second"], "answer": "second"},
        {"prompt": "2 + 2?", "answer": "4"},
    ]
    task.write_text("\n".join(map(json.dumps, lines)))

    def run(*names: str, asks: bool = True) -> Evaluation:
        options = EvaluationOptions(
            chunk_tokens=LENGTH,
            chunks=CHUNKS,
            running=Running(threads=1),
            folder=folder / "work",
            keep_logits=folder / "kept.kld",
            max_tokens=8,
        )
        return evaluate(
            demo_f32,
            [],
            [text],
            options,
            prompts=[{"prompt": "Hello"}] if asks else (),
            tasks=[read_task(task)] if asks else (),
            against=Against(names, checkpoint=checkpoint, prompt_tokens=16, generated_tokens=4, repeats=2),
        )

    return run


@pytest.fixture(scope="module")
def found(measured: Measured) -> Evaluation:
    """All kinds of baselines in one evaluation."""
    return measured("table", "prepared", *FAILING, "table")


@pytest.fixture
def kept(found: Evaluation, tmp_path_factory: pytest.TempPathFactory) -> LogitsFile:
    """Give the base's log-probabilities."""
    return open_logits_file(next(tmp_path_factory.getbasetemp().glob("measured*/kept.kld")))


def row(found: Evaluation, name: str) -> BaselineResult:
    return next(it for it in found.baselines if it.name == name)


def test_figures_are_those_of_their_formulas(found: Evaluation, kept: LogitsFile):
    """Perplexity and divergence in float64 from the table and from the base's log-probabilities, by definition."""
    chunks = np.array(kept.tokens())
    logits = fake_baseline.table(kept.vocabulary_size).astype(np.float64)
    logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    first = LENGTH // 2
    nll = -logs[chunks[:, first:-1], chunks[:, first + 1 :]]
    mine = row(found, "table")
    assert mine.origin is Origin.HERE
    assert mine.likelihood is not None
    assert mine.likelihood.tokens == nll.size == CHUNKS * (LENGTH // 2 - 1)
    assert mine.likelihood.perplexity.value == pytest.approx(np.exp(nll.mean()), rel=1e-5)

    divergences, same = [], []
    with kept.path.open("rb") as file:
        for number in range(CHUNKS):
            rows = kept.rows(file, number)
            scale = np.ascontiguousarray(rows[:, :4]).view("<f4").astype(np.float64)
            base = scale[:, :1] * rows[:, 4 : 4 + kept.vocabulary_size] + scale[:, 1:]
            ours = logs[chunks[number, first:-1]]
            divergences.append((np.exp(base) * (base - ours) * (base > -16)).sum(axis=1))
            same.append(base.argmax(axis=1) == ours.argmax(axis=1))
    assert mine.divergence is not None
    assert mine.divergence.mean_kld.value == pytest.approx(np.mean(divergences), rel=1e-4)
    assert mine.divergence.same_top.value == pytest.approx(np.mean(same), abs=1e-9)

    feet = mine.footprint
    assert feet.weight_bytes == 4 * kept.vocabulary_size**2
    assert feet.prompt is not None
    assert len(feet.prompt.samples) == 2
    assert feet.generation is not None
    assert feet.peak_bytes is not None
    assert feet.peak_bytes >= feet.weight_bytes
    assert feet.disk_bytes == (DEMO / "model.safetensors").stat().st_size
    prepared = row(found, "prepared").footprint
    assert prepared.disk_bytes == 1000  # what prepare has left
    assert prepared.prepare_seconds is not None


def test_questions_are_answered_as_the_table_says(found: Evaluation):
    """The likelier choice by the sum of its tokens' log-probabilities, tokens by the model's own template."""
    from ggufkit.inference.engine import Engine
    from ggufkit.inference.options import EngineOptions

    mine = row(found, "table")
    with Engine.open(found.base.facts.path, EngineOptions(vocabulary_only=True)) as vocabulary:
        size = vocabulary.vocabulary_size
        logits = fake_baseline.table(size).astype(np.float64)
        logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        right = []
        for asked, choices, answer in (
            ("Say yes or no.", (" yes", " no"), 0),
            ("Which?", ("first thing", "second"), 1),
        ):
            prompt = f"<|im_start|>user\n{asked}<|im_end|>\n<|im_start|>assistant\n"
            last = vocabulary.tokenize(prompt, parse_special=True)[-1]
            weights = []
            for choice in choices:
                tokens = [last, *vocabulary.tokenize(choice)]
                weights.append(logs[tokens[:-1], tokens[1:]].sum())
            right.append(int(np.argmax(weights)) == answer)
        reply, token = [], vocabulary.tokenize("<|im_start|>assistant\n", parse_special=True)[-1]
        while len(reply) < 8 and not vocabulary.ends(token := int(logs[token].argmax())):
            reply.append(token)
        text = vocabulary.text_of(reply)
    assert list(mine.tasks[0].right) == [*right, False]
    assert mine.replies[0][0].tokens == tuple(reply)
    assert mine.replies[0][0].text == text
    written = document(found, version="0", build={})["baselines"][0]
    assert written["tasks"][0]["questions"] == 3
    assert written["tasks"][0]["p_value"] is not None


def test_what_cannot_run_says_why(found: Evaluation):
    why = {it.name: it.why for it in found.baselines}
    for name, expected in FAILING.items():
        assert expected in str(why[name])
    rows = document(found, version="0", build={})["baselines"]
    assert [it["origin"] for it in rows] == ["here", "here", *["not run"] * len(FAILING), "here"]
    assert not any("Traceback" in str(it["why"]) or "\n" in str(it["why"]) for it in rows)


def test_a_death_costs_the_chunk_and_not_the_rest(
    measured: Measured, kept: LogitsFile, monkeypatch: pytest.MonkeyPatch
):
    """The run of a baseline dies with its fourth chunk, and ours by an interruption: the next begins with that one."""
    tasks = []
    ask = processes.ask

    def watched(environment, task, job, path, on_event, patience):  # type: ignore[no-untyped-def]  # as `ask`
        tasks.append((job.variant, task, job.done))
        why = ask(environment, task, job, path, on_event, patience)
        if job.variant == "dies" and why:
            raise KeyboardInterrupt
        return why

    monkeypatch.setattr("ggufkit.evaluation.baselines.measure.ask", watched)
    with pytest.raises(KeyboardInterrupt):
        measured("table", "dies", asks=False)
    found = measured("table", "dies", asks=False)
    assert tasks == [("table", "measure", 0), ("dies", "measure", 0), ("dies", "measure", 3)]
    table, died = row(found, "table"), row(found, "dies")
    assert died.why is None
    assert died.likelihood == table.likelihood
    assert died.divergence == table.divergence
    assert [path for path in (kept.path.parent / "work").iterdir() if path.is_dir()] == []


def test_a_baseline_dies_with_us(demo_f32: Path, checkpoint: Path, tmp_path: Path, fakes: Path):
    script = f"""
from pathlib import Path
from ggufkit.evaluation.baselines import measure, processes
from ggufkit.evaluation.baselines.runners.adapter import Baseline, Recipe
from ggufkit.evaluation.baselines.results import Against
from ggufkit.evaluation.evaluate import EvaluationOptions, evaluate
processes._FOLDER = Path({str(fakes)!r})
recipe = Recipe("fake", (), (), torch="", accepts={{"numpy": ("1", "9")}})
measure.named = lambda names: [Baseline("hangs", "", recipe, "fake", "hangs", 1.0)]
evaluate(Path({str(demo_f32)!r}), [], [], EvaluationOptions(folder=Path({str(tmp_path)!r}), max_tokens=1),
         prompts=[{{"prompt": "a"}}], against=Against(["hangs"], checkpoint=Path({str(checkpoint)!r})))
"""
    process = subprocess.Popen([sys.executable, "-c", script])
    try:
        marker = checkpoint / "marks" / "pid"
        while not (marker.exists() and marker.read_text()):
            assert process.poll() is None
            time.sleep(0.05)
        child = int(marker.read_text())
    finally:
        process.kill()
        process.wait()
    deadline = time.monotonic() + 60
    while _lives(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _lives(child)


def _lives(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:  # it is not there, or went while it was read
        return False
    return state != "Z"  # a zombie that nobody waits for has ended all the same


def test_a_file_needs_a_checkpoint_beside_it(demo_f32: Path, fakes: Path):
    with pytest.raises(UsageError, match="run a checkpoint") as raised:
        evaluate(demo_f32, [], prompts=[{"prompt": "a"}], against=Against(["table"]))
    assert "--checkpoint" in str(raised.value.hint)


def test_another_models_checkpoint_is_refused(demo_f32: Path, checkpoint: Path, tmp_path: Path, fakes: Path):
    other = Path(shutil.copytree(checkpoint, tmp_path / "other"))
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"vocab_size": 1000}))
    options = EvaluationOptions(folder=tmp_path / "work", max_tokens=1)
    with pytest.raises(InputError, match="vocabulary of 1,000"):
        evaluate(demo_f32, [], options=options, prompts=[{"prompt": "a"}], against=Against(["table"], checkpoint=other))


def test_one_that_hangs_is_ended_and_says_so(demo_f32: Path, checkpoint: Path, tmp_path: Path, fakes: Path):
    options = EvaluationOptions(folder=tmp_path / "work", max_tokens=1)
    against = Against(["hangs"], checkpoint=checkpoint, patience=3)
    found = evaluate(demo_f32, [], options=options, prompts=[{"prompt": "a"}], against=against)
    assert "no sign of life for 0.05 minutes (--baseline-patience)" in str(row(found, "hangs").why)
