"""The model that comes with ggufkit has learned, and quantizing it costs what quantizing costs."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import ggufkit

pytestmark = [pytest.mark.engine, pytest.mark.slow]

FOLDER = Path(ggufkit.__file__).parent / "demo_model"
QUESTIONS = [json.loads(line) for line in (FOLDER / "questions.jsonl").read_text(encoding="utf-8").splitlines()][::4]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("demo")
    files = {"F16": folder / "demo-F16.gguf"}
    ggufkit.convert(FOLDER, files["F16"])
    for kind in ("Q4_K_M", "Q2_K"):
        files[kind] = folder / f"demo-{kind}.gguf"
        result = ggufkit.quantize(files["F16"], kind, files[kind])
        assert result.fallbacks == ()
    return files


def right_answers(model: Path) -> int:
    """Count exact answers to the held-out questions, each asked in a chat of its own, always the likeliest token."""
    with ggufkit.Engine.open(model, ggufkit.EngineOptions(context_size=512, threads=1)) as engine:
        template = ggufkit.ChatTemplate.of(engine)
        sampling = ggufkit.SamplingOptions(temperature=0)
        return sum(
            ggufkit.ChatSession(engine=engine, template=template, sampling=sampling, max_tokens=64)
            .ask(question["prompt"])
            .result.text
            == question["answer"]
            for question in QUESTIONS
        )


def test_it_answers_what_it_was_not_trained_on(models: dict[str, Path], figure: Callable[[str, str], None]) -> None:
    share = {kind: right_answers(path) / len(QUESTIONS) for kind, path in models.items()}
    for kind, value in share.items():
        size = models[kind].stat().st_size
        figure(f"demo model, {kind}", f"{value:.1%} of {len(QUESTIONS)} held-out questions, {size:,} bytes")
    assert share["F16"] >= 0.95
    assert share["Q4_K_M"] >= 0.90
    assert share["Q2_K"] < share["Q4_K_M"] - 0.02


def test_a_follow_up_sees_what_was_said_before(models: dict[str, Path]) -> None:
    with ggufkit.Engine.open(models["Q4_K_M"], ggufkit.EngineOptions(context_size=512, threads=1)) as engine:
        chat = ggufkit.ChatSession(
            engine=engine,
            template=ggufkit.ChatTemplate.of(engine),
            sampling=ggufkit.SamplingOptions(temperature=0),
        )
        first = chat.ask("What is 38 + 47?").result
        second = chat.ask("What is the capital of Italy?").result
    assert first.text.endswith("= 85")
    assert "Rome" in second.text
    assert second.reused_tokens >= first.prompt_tokens


def test_it_is_small_enough_to_ship() -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 16e6
