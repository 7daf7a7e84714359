"""Greedy replies, byte for byte: streamed, at once, many side by side, and by llama.cpp's own server."""

import random
from dataclasses import dataclass
from pathlib import Path

import llama_server
import pytest
import tiny_model

import ggufkit
from ggufkit.conversion.convert import convert
from ggufkit.inference.batch_engine import BatchEngine
from ggufkit.inference.batch_requests import BatchRequest
from ggufkit.inference.engine import Engine
from ggufkit.inference.options import EngineOptions, SamplingOptions
from ggufkit.inference.prompts import PromptMaker, PromptOptions

pytestmark = [pytest.mark.engine, pytest.mark.oracle]

GREEDY = SamplingOptions(temperature=0)
START = tiny_model.token("\u010a")
DEMO = Path(ggufkit.__file__).parent / "demo_model"


@dataclass(frozen=True)
class Replies:
    tokens: list[int]
    text: str
    streamed: str
    together: str


def ours(model: Path, prompts: list[list[int]], count: int) -> list[Replies]:
    options = EngineOptions(threads=1, context_size=512)
    replies = []
    with Engine.open(model, options) as engine:
        for prompt in prompts:
            generation = engine.generate(prompt, GREEDY, max_tokens=count)
            pieces = list(generation)
            tokens = [piece.token for piece in pieces if piece.token is not None]
            text = generation.result.text
            replies.append((tokens, text, "".join(piece.text for piece in pieces)))
    with BatchEngine.open(model, options, sequences=8) as batch:
        requests = (
            BatchRequest(key=key, tokens=tuple(prompt), sampling=GREEDY, max_tokens=count)
            for key, prompt in enumerate(prompts)
        )
        together = {key: result.text for key, result in batch.run(requests)}
    return [Replies(*reply, together[key]) for key, reply in enumerate(replies)]


@pytest.mark.parametrize(
    ("name", "tokens", "text"),
    [
        ("emoji", tiny_model.ids("Hi 🙂"), "Hi 🙂"),
        ("indentation", [ord(":"), tiny_model.token(tiny_model.spell(" " * 48)), ord("x")], ":" + " " * 48 + "x"),
        ("CJK", tiny_model.ids("世 é"), "世 é"),
        ("split", [*tiny_model.ids("🙂"), tiny_model.token(" the".replace(" ", "\u0120")), 0xC3, 0xA9], "🙂 theé"),
    ],
)
def test_what_is_hard_to_detokenize_comes_out_as_llama_cpp_writes_it(
    tmp_path: Path, name: str, tokens: list[int], text: str
) -> None:
    model = tiny_model.write(tmp_path / f"{name}.gguf", successors=tiny_model.chain(START, tokens))
    [reply] = ours(model, [[START]], 40)
    with llama_server.running(model) as server:
        assert server.greedy([START], 40)[1] == text
        assert server.greedy_stream([START], 40) == text
    assert reply == Replies(tokens, text, text, text)


def test_random_weights_say_the_same_tokens_as_in_llama_cpp(tmp_path: Path) -> None:
    model = tiny_model.write(tmp_path / "random.gguf", seed=3)
    source = random.Random(5)
    prompts = [[source.randrange(256) for _ in range(source.randrange(1, 150))] for _ in range(12)]
    replies = ours(model, prompts, 40)
    with llama_server.running(model) as server:
        assert [reply.tokens for reply in replies] == [server.greedy(prompt, 40)[0] for prompt in prompts]
    assert all(reply.streamed == reply.text for reply in replies)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("demo") / "demo.gguf"
    convert(DEMO, path)
    return path


def test_the_demo_model_answers_as_in_llama_cpp(demo: Path) -> None:
    questions = [
        "What is 38 + 47?",
        "Hello! 👋",
        "Write 你好 twice.",
        "Indent this:\n" + " " * 48 + "x",
        "Sort: pear, fig",
    ]
    with Engine.open(demo, EngineOptions(threads=1)) as engine:
        maker = PromptMaker(engine, PromptOptions())
        prompts = [maker.tokens(question) for question in questions]
    replies = ours(demo, prompts, 60)
    with llama_server.running(demo) as server:
        for prompt, reply in zip(prompts, replies, strict=True):
            tokens, text = server.greedy(prompt, 60)
            assert reply.text == reply.streamed == reply.together == text
            assert reply.tokens == tokens
