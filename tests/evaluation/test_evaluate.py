"""Whole evaluations: against transformers, resumed, refused, and a damaged model found."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from ggufkit.errors import InputError, OutputError, UsageError
from ggufkit.evaluation.answers.tasks import read_task
from ggufkit.evaluation.evaluate import EvaluationOptions, evaluate
from ggufkit.evaluation.evaluation_results import ModelResult, document
from ggufkit.evaluation.gates import Gates, failures, figures_of, fraction
from ggufkit.evaluation.likelihood.passes import Running
from ggufkit.gguf_file.reader import read_header
from ggufkit.reports import render
from ggufkit.reports.reading import run_of
from ggufkit.reports.verdict import verdict

pytestmark = pytest.mark.engine

DEMO = Path(__file__).parents[2] / "ggufkit" / "demo_model"
LENGTH, CHUNKS = 256, 4


def options(folder: Path, *, flash_attention: str = "auto", **changes: object) -> EvaluationOptions:
    return EvaluationOptions(
        chunk_tokens=LENGTH,
        chunks=CHUNKS,
        folder=folder,
        running=Running(threads=2, flash_attention=flash_attention),
        **changes,
    )  # type: ignore[arg-type]  # what a test changes


@pytest.fixture(scope="module")
def demo_models(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    from ggufkit.conversion import convert
    from ggufkit.quantization.quantize import quantize

    folder = tmp_path_factory.mktemp("demo")
    f16 = folder / "demo-F16.gguf"
    convert(DEMO, f16)
    return {"F16": f16} | {k: quantize(f16, k, folder / f"demo-{k}.gguf").output for k in ("Q8_0", "Q4_K_M", "Q2_K")}


@pytest.fixture(scope="module")
def held_out() -> Path:
    return DEMO / "heldout.txt"


@pytest.mark.oracle
def test_divergence_agrees_with_transformers_as_the_base(
    demo_models: Mapping[str, Path], held_out: Path, tmp_path: Path, figure: Callable[[str, str], None]
):
    """The base's logits by transformers, the models' by the binding alone, the divergence by its definition.

    Without fused attention, which the binding does not use: 8-bit activations make of its rounding another sample of
    noise, 7 % of the divergence of Q8_0 over these few tokens.
    """
    import torch
    from transformers import AutoModelForCausalLM

    from ggufkit.llamacpp import binding

    llama_cpp = binding.load()  # the package itself, told where the build is
    kinds = ("Q8_0", "Q4_K_M", "Q2_K")
    kept = tmp_path / "base.kld"
    found = evaluate(
        demo_models["F16"],
        [demo_models[k] for k in kinds],
        [held_out],
        options(tmp_path, keep_logits=kept, flash_attention="off"),
    )
    from ggufkit.evaluation.likelihood.logits_file import open_logits_file

    chunks = open_logits_file(kept).tokens()
    model = AutoModelForCausalLM.from_pretrained(DEMO, dtype=torch.float32).eval()
    with torch.no_grad():
        truth = torch.log_softmax(model(torch.tensor(chunks)).logits.double(), -1).numpy()
    scored = slice(LENGTH // 2, LENGTH - 1)
    for result, kind in zip(found.models, kinds, strict=True):
        engine = llama_cpp.Llama(str(demo_models[kind]), n_ctx=LENGTH, logits_all=True, verbose=False, n_threads=1)
        klds = []
        for chunk, base in zip(chunks, truth, strict=True):
            engine.reset()
            engine.eval(chunk)
            logits = torch.from_numpy(np.array(engine.scores[:LENGTH], np.float64))
            said = torch.log_softmax(logits, -1).numpy()
            klds.append((np.exp(base) * (base - said)).sum(-1)[scored])
        engine.close()
        assert result.divergence
        wanted, mine = float(np.mean(klds)), result.divergence.mean_kld.value
        figure(f"mean KL divergence of {kind}, eval", f"{mine:.6f}; with transformers as the base {wanted:.6f}")
        # Bit for bit the same logits give 0.4 %; where a CPU multiplies these batches otherwise, Q8_0 shows the noise.
        assert mine == pytest.approx(wanted, rel=0.1 if kind == "Q8_0" else 0.02)


def test_a_model_is_itself_and_a_damaged_one_is_flagged(
    demo_models: Mapping[str, Path], held_out: Path, tmp_path: Path
):
    damaged = tmp_path / "damaged.gguf"
    content = bytearray(demo_models["F16"].read_bytes())
    tensor = next(t for t in read_header(demo_models["F16"]).tensors if t.name == "blk.2.ffn_down.weight")
    values = np.frombuffer(bytes(content[tensor.offset : tensor.offset + tensor.size]), "<f2").copy()
    values += np.random.default_rng(0).normal(0, values.std(), values.size).astype("<f2")
    content[tensor.offset : tensor.offset + tensor.size] = values.tobytes()
    damaged.write_bytes(content)
    found = evaluate(demo_models["F16"], [demo_models["F16"], damaged], [held_out], options(tmp_path))
    same, other = found.models
    assert same.divergence
    assert other.divergence
    assert abs(same.divergence.mean_kld.value) < 1e-6
    assert same.divergence.same_top.value == 1
    assert failures(figures_of(same), Gates(max_kld=1e-6, max_ppl_increase=0.001, min_same_top=1.0)) == []
    assert len(failures(figures_of(other), Gates(max_kld=0.01, max_ppl_increase=0.01, min_same_top=0.99))) == 3
    assert found.pairs[0].difference.is_clear
    judged = verdict(run_of(document(found, version="", build={}, gates=Gates(max_kld=0.01)), "run"))
    assert list(judged.failed) == ["damaged.gguf"]
    assert "mean KL divergence" in judged.failed["damaged.gguf"][0]
    assert "damaged.gguf" in judged.dominated


def test_an_interrupted_run_goes_on_and_gives_the_same(demo_models: Mapping[str, Path], held_out: Path, tmp_path: Path):
    models = [demo_models["Q8_0"], demo_models["Q2_K"]]

    def figures(folder: Path, progress: Callable[..., None]) -> dict:
        found = evaluate(demo_models["F16"], models, [held_out], options(folder), progress=progress)
        written = document(found, version="", build={})
        for model in (written["base"], *written["models"]):
            del model["speed"]
        return {key: written[key] for key in ("base", "models", "pairs", "texts")}

    def silent(*_: object) -> None:
        pass

    stages: list[tuple[str, int]] = []
    whole = figures(tmp_path / "whole", lambda stage, done, *_: stages.append((stage, done)))
    assert list((tmp_path / "whole").iterdir()) == []
    for stop in range(2, len(stages) + 1, 4):

        class StoppedError(Exception):
            pass

        steps = 0

        def stopping(*_: object, stop: int = stop, error: type[Exception] = StoppedError) -> None:
            nonlocal steps
            steps += 1
            if steps == stop:
                raise error

        folder = tmp_path / str(stop)
        with pytest.raises(StoppedError):
            figures(folder, stopping)
        again: list[int] = []
        assert figures(folder, lambda _, done, *__, again=again: again.append(done)) == whole
        assert len(again) < len(stages)
        assert list(folder.iterdir()) == []


def test_the_same_evaluation_is_not_done_twice_at_once(demo_models: Mapping[str, Path], held_out: Path, tmp_path: Path):
    """Both would write on the same files."""

    def again(*_: object) -> None:
        with pytest.raises(OutputError, match="of the same base and texts is at work"):
            evaluate(demo_models["F16"], [], [held_out], options(tmp_path))
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        evaluate(demo_models["F16"], [], [held_out], options(tmp_path), progress=again)


def test_replies_and_tasks_need_no_text(demo_models: Mapping[str, Path], tmp_path: Path):
    """The demo model knows sums and capitals; cut down to two bits it forgets some."""
    lines = (DEMO / "questions.jsonl").read_text().splitlines()[:12]
    lines.append(json.dumps({"prompt": "What is 38 + 47?", "choices": ["70 + 15 = 95", "70 + 15 = 85"], "answer": 1}))
    (tmp_path / "sums.jsonl").write_text("\n".join(lines))
    found = evaluate(
        demo_models["F16"],
        [demo_models["F16"], demo_models["Q2_K"]],
        options=options(tmp_path / "work"),
        prompts=[{"prompt": "What is 38 + 47?"}, {"prompt": "Add 10 and 76."}],
        tasks=[read_task(tmp_path / "sums.jsonl")],
    )
    assert found.base.likelihood is None
    assert found.base.tasks[0].accuracy.right >= 12
    same, smaller = found.models
    assert same.tasks[0].right == found.base.tasks[0].right
    assert smaller.tasks[0].accuracy.right <= found.base.tasks[0].accuracy.right
    assert [it.base.text for it in found.generations] == ["70 + 15 = 85", "80 + 6 = 86"]
    assert all(it.replies[0][1].same and it.replies[0][1].tokens > 5 for it in found.generations)
    page = render([run_of(json.loads(json.dumps(document(found, version="", build={}))), "run")])
    assert "the same to the end" in page
    assert "Right answers" in page


def test_all_parts_of_a_split_model_are_hashed(demo_models: Mapping[str, Path], held_out: Path, tmp_path: Path):
    from ggufkit.llamacpp.find import find

    split = find().tool("llama-gguf-split")
    command = [split, "--split-max-size", "1M", demo_models["Q2_K"], tmp_path / "split"]
    subprocess.run(command, capture_output=True, check=True)
    parts = sorted(tmp_path.glob("split-*.gguf"))
    assert len(parts) > 1
    one_chunk = EvaluationOptions(chunk_tokens=64, chunks=1, folder=tmp_path / "work", running=Running(threads=1))
    found = evaluate(demo_models["Q2_K"], [parts[0]], [held_out], one_chunk)
    assert found.models[0].divergence
    assert found.models[0].divergence.same_top.value == 1
    hashes = {part.name: hashlib.sha256(part.read_bytes()).hexdigest() for part in parts}
    written = document(found, version="", build={})
    assert written["models"][0]["files"] == hashes
    assert written["models"][0]["sha256"] not in {*hashes.values(), written["base"]["sha256"]}
    assert written["models"][0]["bytes"] == sum(part.stat().st_size for part in parts)
    page = render([run_of(written, "run")])
    assert all(digest in page for digest in hashes.values())


def test_another_vocabulary_is_refused(demo_models: Mapping[str, Path], held_out: Path, tmp_path: Path):
    import tiny_gguf

    other = tiny_gguf.write_model(tmp_path / "other-F16.gguf")
    with pytest.raises(InputError, match="vocabulary"):
        evaluate(demo_models["F16"], [other], [held_out], options(tmp_path))


def test_a_checkpoint_may_be_the_base(demo_models: Mapping[str, Path], held_out: Path, tmp_path: Path):
    from_folder = evaluate(DEMO, [demo_models["Q2_K"]], [held_out], options(tmp_path))
    from_file = evaluate(demo_models["F16"], [demo_models["Q2_K"]], [held_out], options(tmp_path))
    assert from_folder.models[0].divergence
    assert from_file.models[0].divergence
    assert from_folder.models[0].divergence.mean_kld.value == pytest.approx(
        from_file.models[0].divergence.mean_kld.value, rel=0.02
    )


def test_the_command_writes_json_and_fails_at_a_gate(
    demo_models: Mapping[str, Path], held_out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("GGUFKIT_CACHE", str(tmp_path / "cache"))
    run = tmp_path / "run.json"
    command = [sys.executable, "-c", "from ggufkit.cli import main; main()", "eval", demo_models["F16"]]
    command += [demo_models["Q2_K"], "-f", held_out, "-c", "256", "--chunks", "2", "-o", run, "--max-kld", "0.01"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 7
    assert "at most 0.01" in ran.stderr
    written = json.loads(run.read_text())
    assert (written["schema_version"], written["kind"]) == (1, "evaluation")
    assert written["models"][0]["type"] == "Q2_K"
    assert written["models"][0]["block_types"]["ffn_down.weight"]
    [left] = (tmp_path / "cache" / "divergence").glob("*.divergence.json")
    assert json.loads(left.read_text())["results"][0]["type"] == "Q2_K"


@pytest.mark.parametrize(("text", "value"), [("2%", 0.02), ("0.02", 0.02), (" 95 %", 0.95)])
def test_fractions_are_read(text: str, value: float):
    assert fraction(text, "--x") == pytest.approx(value)


@pytest.mark.parametrize("text", ["3", "x", "-1%", "nan", "inf", "1e400"])
def test_what_is_no_fraction_is_refused(text: str):
    with pytest.raises(UsageError, match="--x"):
        fraction(text, "--x")


def test_a_gate_that_is_not_a_number_fails_what_is_not_a_number(demo_models: Mapping[str, Path]):
    """NaN passes no comparison, and so no gate."""
    from ggufkit.evaluation.likelihood.statistics import divergence

    found = divergence(np.full((20, 4), np.nan, np.float32))
    model = ModelResult(None, found.likelihood, found, (), None)  # type: ignore[arg-type]  # only figures count here
    assert len(failures(figures_of(model), Gates(max_kld=1, max_ppl_increase=1, min_same_top=0))) == 3


def test_nothing_is_measured_twice_under_one_name(demo_models: Mapping[str, Path], held_out: Path, tmp_path: Path):
    same = held_out.parent / ".." / held_out.parent.name / held_out.name
    with pytest.raises(UsageError, match=r"the text .* is named twice"):
        evaluate(demo_models["F16"], [demo_models["Q2_K"]], [held_out, same], options(tmp_path))
    with pytest.raises(UsageError, match=r"the model .* is named twice"):
        evaluate(demo_models["F16"], [demo_models["Q2_K"]] * 2, [held_out], options(tmp_path))


def test_what_is_known_before_reading_is_said(demo_models: Mapping[str, Path], tmp_path: Path):
    """A text that is none, one that the model was calibrated with, and the base's file on another disk or this one."""
    text, kept, notes = tmp_path / "text.txt", tmp_path / "kept.kld", []
    text.write_bytes((DEMO / "heldout.txt").read_bytes()[:3000] + b"\xff\xfe")
    kept.write_bytes(b"old")
    found = evaluate(
        demo_models["F16"],
        [demo_models["F16"]],
        [text],
        EvaluationOptions(
            chunk_tokens=64,
            chunks=1,
            folder=tmp_path / "work",
            running=Running(threads=1),
            keep_logits=kept,
            calibration=(DEMO / "heldout.txt",),
        ),
        note=notes.append,
    )
    said = "\n".join(notes)
    assert "1 chunk of 64 tokens" in said
    assert "is not UTF-8" in said
    assert "100.0% of text is in" in said
    assert kept.stat().st_size > 31 * 2 * 1000
    shared = document(found, version="", build={})["calibration"]["shared"]
    assert [(it["text"], it["share"], it["too_much"]) for it in shared] == [("text", 1.0, True)]


def test_what_could_not_be_asked_is_told(demo_models: Mapping[str, Path], tmp_path: Path):
    path = tmp_path / "questions.jsonl"
    lines = [{"prompt": "What is 3 + 4?", "answer": "3 + 4 = 7"}, {"prompt": "why? " * 3000, "answer": "x"}]
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    said: list[str] = []
    prompts = [{"prompt": line["prompt"]} for line in lines]
    found = evaluate(
        demo_models["F16"],
        [demo_models["Q8_0"]],
        options=options(tmp_path / "work", max_tokens=16),
        prompts=prompts,
        tasks=[read_task(path)],
        note=said.append,
    )
    assert found.models[0].tasks[0].unasked == 1
    assert [it.replies[0][1].same for it in found.generations] == [True, False]
    warned = [text for text in said if "could not be asked" in text]
    assert len(warned) == 4  # of two models: questions, prompts
    assert "1 of 2 questions of questions" in warned[-1]


def test_tasks_and_models_of_one_name_are_told_apart(demo_models: Mapping[str, Path], held_out: Path, tmp_path: Path):
    answers = {"good": "3 + 4 = 7", "bad": "no"}
    tasks = []
    for folder, answer in answers.items():
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "q.jsonl").write_text(json.dumps({"prompt": "What is 3 + 4?", "answer": answer}))
        tasks.append(read_task(tmp_path / folder / "q.jsonl"))
        (tmp_path / folder / "m.gguf").symlink_to(demo_models["Q8_0" if answer == "no" else "Q2_K"])
    models = [tmp_path / folder / "m.gguf" for folder in answers]
    work = options(tmp_path / "work", max_tokens=16)
    found = evaluate(demo_models["F16"], models, [held_out], work, tasks=tasks)
    assert [task.task for task in found.models[1].tasks] == ["good/q.jsonl", "bad/q.jsonl"]
    failed = failures(figures_of(found.models[1]), Gates(min_task_accuracy=0.9))
    assert [what.partition(":")[0] for what in failed][-1] == "bad/q.jsonl"
    written = document(found, version="1", build={})
    assert [model["file"] for model in written["models"]] == ["good/m.gguf", "bad/m.gguf"]
    page = run_of(written, "run.json")
    assert verdict(page, Gates(max_kld=0.05)).model is page.models[1]
