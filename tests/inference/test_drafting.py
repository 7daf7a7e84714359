"""Drafts change how fast a reply comes, and nothing else; how much is drafted follows from what it takes."""

from pathlib import Path

import pytest
import tiny_model

from ggufkit.errors import UsageError
from ggufkit.inference.drafting import LENGTHS, Drafting
from ggufkit.inference.engine import Engine
from ggufkit.inference.options import EngineOptions, SamplingOptions

pytestmark = pytest.mark.engine

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def reply(path: Path, draft: Path | None, *, most: int = 8, temperature: float = 0.0, count: int = 300) -> list[int]:
    options = EngineOptions(context_size=512, threads=1, most_drafted=most if draft else 0)
    with Engine.open(path, options) as engine:
        if draft:
            engine.drafting = Drafting.open(draft, engine, most)
        sampling = SamplingOptions(temperature=temperature, seed=7)
        found = []
        for _ in range(2):  # the second time most of the prompt is in the memory of both
            pieces = list(engine.generate(engine.tokenize("hello a"), sampling, max_tokens=count))
            found.append([piece.token for piece in pieces if piece.token is not None])
        assert found[0] == found[1]
        if engine.drafting:
            assert engine.drafting.drafted > 0
            assert engine.drafting.accepted <= engine.drafting.drafted
            assert draft != path or engine.drafting.accepted > engine.drafting.drafted * 0.5
        return found[0]


def scripted(path: Path, text: str) -> Path:
    ids = tiny_model.ids(text)
    # The one that comes next has nearly all the chance, so that a draft is made of it.
    return tiny_model.write(path, successors=tiny_model.chain(tiny_model.ids("a")[0], ids[1:], endless=True))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("drafts", [LETTERS, "abdcfehgjilknmporqtsvuxwzy", "acegikmoqsuwybdfhjlnprtvxz"])
def test_the_reply_is_that_of_the_large_model_alone(tmp_path: Path, drafts: str, temperature: float) -> None:
    large, small = scripted(tmp_path / "large.gguf", LETTERS), scripted(tmp_path / "small.gguf", drafts)
    alone = reply(large, None, temperature=temperature)
    for most in (2, 4, 16):
        assert reply(large, small, most=most, temperature=temperature) == alone


def test_a_reply_that_fills_the_context_ends_where_it_would_alone(tmp_path: Path) -> None:
    large = scripted(tmp_path / "large.gguf", LETTERS)
    assert reply(large, large, count=600) == reply(large, None, count=600)


def test_how_much_is_drafted_follows_from_what_it_takes() -> None:
    for best in (0, 4, 16):
        drafting = Drafting(None, 16)  # type: ignore[arg-type] - the model is not asked
        chosen = []
        for _ in range(400):
            length = drafting.length()
            chosen.append(length)
            drafting.note(length, 1.0 if length == best else 2.0, 1)
        assert set(chosen[:15]) == set(LENGTHS)
        assert chosen.count(best) > 300
    assert {Drafting(None, 3).length() for _ in range(9)} <= {0, 2}  # type: ignore[arg-type]


def test_a_model_of_another_vocabulary_is_refused(tmp_path: Path) -> None:
    large = tiny_model.write(tmp_path / "large.gguf")
    tokens, _, _ = tiny_model.vocabulary()
    other = [*tokens[:5], "§§", *tokens[6:]]
    small = tiny_model.write(tmp_path / "small.gguf", overrides={"tokenizer.ggml.tokens": other})
    with Engine.open(large, EngineOptions(threads=1)) as engine, pytest.raises(UsageError, match="token 5 is '§§'"):
        Drafting.open(small, engine, 4)
