"""Texts are cut into tokens while the program still loads; what goes wrong with that is told later, or by nobody."""

import json
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest

from ggufkit.errors import GgufkitError, LlamaCppError
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


def process() -> int | None:
    """The child that answers all; None when there is none."""
    attendant = child_process._attendant.get()
    return attendant._process.pid if attendant and attendant._process else None


def test_tokens_are_those_that_an_evaluation_cuts_itself(converted: Converted, text: Path, tmp_path: Path) -> None:
    model, _ = converted("demo")
    with one_for_all(), head_start(model, [text, text], Running()) as begun:
        assert begun is not None
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
        assert begun is not None
        assert begun.tokens_of(model, [other], Running()) is None
        assert begun.tokens_of(model, [text], Running(threads=1)) is None
        assert begun.tokens_of(model, [text], Running()) is not None


def test_who_evaluates_is_told_what_the_child_refuses(converted: Converted, text: Path, tmp_path: Path) -> None:
    model, _ = converted("demo")
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(model.read_bytes().replace(b"gpt2", b"gpt9"))
    told = []
    for begin in (head_start, lambda *_: nullcontext()):
        with pytest.raises(GgufkitError) as raised, one_for_all(), begin(broken, [text], Running()) as begun:
            evaluate(broken, [model], [text], begun=begun)
        told.append((type(raised.value), str(raised.value)))
    assert told[0] == told[1]
    assert "gpt9" in told[0][1]


def test_a_child_that_dies_while_it_cuts_is_not_tried_again(text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child_process, "_ATTEND", "import sys, os; sys.stdin.readline(); os.kill(os.getpid(), 9)")
    model = Path("any.gguf")
    with one_for_all(), head_start(model, [text], Running()) as begun:
        assert begun is not None
        with pytest.raises(LlamaCppError, match="SIGKILL"):
            begun.tokens_of(model, [text], Running())


def test_a_child_that_leaves_after_the_first_request_is_followed_by_another(
    converted: Converted, text: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where the memory of one request would count for the next one."""
    leaving = "from ggufkit import peak_memory; peak_memory.forget_peak = lambda: False; "
    monkeypatch.setattr(child_process, "_ATTEND", leaving + child_process._ATTEND)
    model, _ = converted("demo")
    seen: list[list[str]] = []
    with one_for_all():
        asking = ask_first(CHILD)
        assert asking

        def first() -> None:
            seen.append(asking(json.dumps({"model": str(model), "settings": [], "matrices": []})))

        with head_start(model, [text], Running(), first=first) as begun:
            assert begun is not None
            files = begun.tokens_of(model, [text], Running())
            assert process() is None  # that of the second request has left as well
            assert files is not None
            assert files[0].stat().st_size > 4000
    assert "training_context" in seen[0][-1]


def test_without_a_temporary_folder_nothing_is_begun(text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: object, **__: object) -> None:
        raise FileNotFoundError("no usable temporary directory")

    monkeypatch.setattr(tempfile, "TemporaryDirectory", none)
    done: list[bool] = []
    with head_start(Path("any.gguf"), [text], Running(), first=lambda: done.append(True)) as begun:
        assert begun is None
        assert done


def test_what_comes_first_may_fail_and_that_is_told(converted: Converted, text: Path) -> None:
    def fails() -> None:
        raise LlamaCppError("it cannot")

    model, _ = converted("demo")
    with one_for_all(), head_start(model, [text], Running(), first=fails) as begun:
        assert begun is not None
        with pytest.raises(LlamaCppError, match="it cannot"):
            begun.tokens_of(model, [text], Running())


def test_nobody_waits_for_a_child_when_the_rest_has_failed(text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # What is killed is started again for the second request, so that one has to be killed too.
    monkeypatch.setattr(child_process, "_ATTEND", "import sys, time; sys.stdin.readline(); time.sleep(600)")

    failures: list[str] = []

    def first() -> None:
        asking = ask_first("any")
        assert asking
        try:
            asking("{}")
        except LlamaCppError as error:
            failures.append(str(error))

    def interrupted() -> None:
        with one_for_all(), head_start(Path("any.gguf"), [text], Running(), first=first):
            time.sleep(0.5)
            raise KeyboardInterrupt

    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert time.monotonic() - started < 60
    assert len(failures) == 1
    assert "SIGKILL" in failures[0]
