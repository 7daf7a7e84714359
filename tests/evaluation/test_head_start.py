"""Texts are cut into tokens while the program still loads; what goes wrong with that is told later, or by nobody."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ggufkit.errors import InputError, LlamaCppError
from ggufkit.evaluation import child_process
from ggufkit.evaluation.child_process import ask_first, one_for_all
from ggufkit.evaluation.evaluate import EvaluationOptions, evaluate
from ggufkit.evaluation.head_start import head_start
from ggufkit.evaluation.likelihood import passes
from ggufkit.evaluation.likelihood.running import Running
from ggufkit.llamacpp.memory import CHILD

Converted = Callable[..., tuple[Path, Path]]


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("The models say what comes next.\n" * 200)
    return path


def test_tokens_are_those_that_an_evaluation_cuts_itself(converted: Converted, text: Path, tmp_path: Path) -> None:
    model, _ = converted("demo")
    with one_for_all(), head_start(model, [text, text], Running()) as begun:
        files = begun.tokens_of(model, [text, text], Running())
        assert files is not None
        ahead = passes.taken(files)
    own = passes.tokenize(model, [text, text], tmp_path, Running())
    assert len(own[0]) > 1000
    for one, other in zip(ahead, own, strict=True):
        np.testing.assert_array_equal(one, other)


def test_an_evaluation_gives_the_same_and_cuts_nothing_itself(
    converted: Converted, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, _ = converted("demo")
    options = EvaluationOptions(chunk_tokens=64, chunks=4)
    plain = evaluate(model, [model], [text], options)
    monkeypatch.setattr(passes, "tokenize", None)  # whoever called it would fail
    asked: list[list[str]] = []
    with one_for_all():
        asking = ask_first(CHILD)
        assert asking

        def first() -> None:
            asked.append(asking('{"model": "none.gguf", "settings": [], "matrices": []}'))

        with head_start(model, [text], Running(), first=first) as begun:
            found = evaluate(model, [model], [text], options, begun=begun)
    assert found.base.likelihood == plain.base.likelihood
    assert "failure" in asked[0][-1]


def test_other_texts_are_none_of_its_business(converted: Converted, text: Path, tmp_path: Path) -> None:
    model, _ = converted("demo")
    other = tmp_path / "other.txt"
    other.write_text("Another one.\n" * 200)
    with one_for_all(), head_start(model, [text], Running()) as begun:
        assert begun.tokens_of(model, [other], Running()) is None
        assert begun.tokens_of(model, [text], Running(threads=1)) is None
        assert begun.tokens_of(model, [text], Running()) is not None


def test_who_evaluates_is_told_what_went_wrong(converted: Converted, text: Path, tmp_path: Path) -> None:
    model, _ = converted("demo")
    missing = tmp_path / "missing.txt"
    with (
        pytest.raises(InputError, match=r"no such text: .*missing"),
        one_for_all(),
        head_start(model, [missing], Running()) as begun,
    ):
        evaluate(model, [model], [missing], begun=begun)


def test_what_comes_first_may_fail(converted: Converted, text: Path) -> None:
    def fails() -> None:
        raise LlamaCppError("it cannot")

    model, _ = converted("demo")
    with one_for_all(), head_start(model, [text], Running(), first=fails) as begun:
        assert begun.tokens_of(model, [text], Running()) is None


def test_nobody_waits_for_a_child_when_the_rest_has_failed(text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # What is killed is started again for the second request, so that one has to be killed too.
    monkeypatch.setattr(child_process, "_ATTEND", "import sys, time; sys.stdin.readline(); time.sleep(600)")

    def first() -> None:
        asking = ask_first("any")
        assert asking
        with pytest.raises(LlamaCppError):
            asking("{}")

    def interrupted() -> None:
        with one_for_all(), head_start(Path("any.gguf"), [text], Running(), first=first):
            time.sleep(0.5)
            raise KeyboardInterrupt

    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert time.monotonic() - started < 60
