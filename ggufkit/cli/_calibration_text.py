"""The text that an importance matrix is made with: from files, chats in the model's own template, or by the model."""

import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ggufkit.cli import _output
from ggufkit.counting import counted

if TYPE_CHECKING:
    from ggufkit.inference.engine import Engine
    from ggufkit.inference.templates import ChatTemplate, Message
    from ggufkit.progress import Progress
    from ggufkit.quantization.calibration import Messages, Passages, Render
    from ggufkit.quantization.make_imatrix import Calibration

OWN_CHUNKS = 20  # that the model writes itself, unless told otherwise
MOST_CHUNKS = 200  # of a long text: more make no consistent difference (llama.cpp, tools/perplexity/README.md)

_TRIED_TOKENS = 16  # to see how fast a model writes
_CHARACTERS_PER_TOKEN = 6  # a high guess, so that the text is rather too long: llama-imatrix stops by itself
_MARK = "\ufdd0"  # a noncharacter, which no template knows
# Where a text may begin, for a model that is not to be told what to write.
_OPENINGS = ("", "\n", "The ", "Question: ", "def ", "# ", "1. ", "I ")


def from_files(
    paths: Sequence[Path], model: Path, *, chunks: int, ctx_size: int, seed: int, quiet: bool
) -> "Calibration":
    """Read, sift and shuffle texts; about as much as will be used.

    Raises:
        InputError: a file cannot be read, or there is too little text.
    """
    from ggufkit.quantization.calibration import compose, read_passages
    from ggufkit.quantization.make_imatrix import Calibration

    with renderer(model) as (render, refused):
        passages = read_passages(paths, render)
    if refused and not quiet:
        _output.warn(f"the model's chat template refused {len(refused)} chats; the first: {refused[0]}")
    text = compose(
        passages.texts,
        seed=seed,
        tokens=(chunks + 2) * ctx_size,
        count_tokens=lambda passage: len(passage) // _CHARACTERS_PER_TOKEN,
    )
    if not quiet:
        _output.note(_told(passages, text))
    name = paths[0].name if len(paths) == 1 else f"{paths[0].name}+{len(paths) - 1}"
    return Calibration(text, name, special=passages.chats > 0)


def by_the_model(
    model: Path, *, chunks: int, ctx_size: int, seed: int, threads: int | None, progress: "Progress"
) -> "Calibration":
    """Let the model write: freely from various beginnings, and conversations if it has a chat template.

    Raises:
        GgufFileError: the model cannot be loaded.
        InputError: it writes nothing.
    """
    from ggufkit.errors import InputError
    from ggufkit.inference.engine import Engine
    from ggufkit.inference.options import EngineOptions
    from ggufkit.inference.templates import ChatTemplate
    from ggufkit.quantization.make_imatrix import Calibration

    wanted = (chunks + 1) * ctx_size
    texts: list[str] = []
    done = empty = 0
    with Engine.open(model, EngineOptions(context_size=2 * max(ctx_size, 256), threads=threads)) as engine:
        template = None
        with contextlib.suppress(InputError):
            template = ChatTemplate.of(engine)
        while done < wanted:
            progress("Writing text to calibrate with", min(done, wanted), wanted, "steps")
            number = len(texts) + empty
            if template is not None and number % 2:
                text, count = _conversation(engine, template, seed + number, ctx_size)
            else:
                text, count = _free(engine, _OPENINGS[number // 2 % len(_OPENINGS)], seed + number, ctx_size)
            done += count
            empty = 0 if count else empty + 1
            texts += [text] if count else []
            if empty > 2 * len(_OPENINGS):
                raise InputError(f"{model} writes nothing by itself", hint="give a text with -f")
    progress("Writing text to calibrate with", wanted, wanted, "steps")
    return Calibration("\n\n".join(texts) + "\n", f"self-{seed}.txt", special=template is not None)


def writing_speed(model: Path, *, threads: int | None) -> float:
    """Let a model write a little; return tokens per second. Raises GgufFileError: it cannot be loaded."""
    from ggufkit.inference.engine import Engine
    from ggufkit.inference.options import EngineOptions

    with Engine.open(model, EngineOptions(context_size=256, threads=threads)) as engine:
        _free(engine, "", 0, 1)  # the first token waits for the weights to be read
        started = time.monotonic()
        _, count = _free(engine, "The ", 0, _TRIED_TOKENS)
        return max(1, count) / max(1e-6, time.monotonic() - started)


def _free(engine: "Engine", opening: str, seed: int, most: int) -> tuple[str, int]:
    start = engine.tokenize(opening, add_special=True)
    if not start:
        beginning = engine.bos if engine.bos is not None else engine.eos
        start = [beginning] if beginning is not None else engine.tokenize("\n")
    text, count = _generated(engine, start, seed, most)
    return opening + text, count


def _conversation(engine: "Engine", template: "ChatTemplate", seed: int, most: int) -> tuple[str, int]:
    """Let the model ask a question, as a user of its template would, and answer it."""
    from ggufkit.errors import InputError
    from ggufkit.inference.templates import Message

    try:
        before = template.render([Message("user", _MARK)], add_generation_prompt=False).partition(_MARK)[0]
        question, asked = _generated(engine, engine.tokenize(before, parse_special=True), seed, most // 4)
        if not question.strip():
            return "", 0
        user = Message("user", question.strip())
        prompt = template.render([user])
        answer, said = _generated(engine, engine.tokenize(prompt, parse_special=True), seed, most)
        chat = template.render([user, Message("assistant", answer.strip())], add_generation_prompt=False)
    except InputError:
        return "", 0
    return chat, asked + said


def _generated(engine: "Engine", start: list[int], seed: int, most: int) -> tuple[str, int]:
    from ggufkit.inference.options import SamplingOptions

    sampling = SamplingOptions(temperature=1.0, top_k=0, top_p=1.0, min_p=0.02, seed=seed)
    reply = engine.generate(start, sampling, max_tokens=max(1, most))
    for _ in reply:
        pass
    return reply.result.text, reply.result.generated_tokens


@contextlib.contextmanager
def renderer(model: Path) -> Iterator[tuple["Render | None", list[str]]]:
    """Yield (a function that renders chats, or None for a model without template; the reasons of refusals)."""
    from ggufkit.errors import InputError, MissingDependencyError
    from ggufkit.inference.engine import Engine
    from ggufkit.inference.options import EngineOptions
    from ggufkit.inference.templates import ChatTemplate, Message

    refused: list[str] = []
    try:
        with Engine.open(model, EngineOptions(vocabulary_only=True)) as engine:
            template = ChatTemplate.of(engine)
    except MissingDependencyError:
        raise
    except InputError:
        yield None, refused
        return

    def render(messages: "Messages") -> str:
        turns = [Message(message["role"], message["content"]) for message in messages]  # type: ignore[arg-type] # any role
        try:
            return template.render(turns, add_generation_prompt=False)
        except InputError as error:
            try:
                return template.render(_without_system(turns), add_generation_prompt=False)
            except InputError:
                refused.append(str(error))
                return ""

    yield render, refused


def _without_system(turns: "list[Message]") -> "list[Message]":
    """Put what the system says in front of what the user says, for templates that know no system."""
    from ggufkit.inference.templates import Message

    system = "\n\n".join(turn.content for turn in turns if turn.role == "system")
    others = [turn for turn in turns if turn.role != "system"]
    if system and others and others[0].role == "user":
        others[0] = Message("user", f"{system}\n\n{others[0].content}")
    return others


def _told(passages: "Passages", text: str) -> str:
    kinds = counted(len(passages.texts), "passage") + (f", {passages.chats:,} of them chats" if passages.chats else "")
    left = f" (left out: {passages.short:,} short, {passages.repeated:,} repeated)"
    share = len(text) / max(1, passages.characters)
    used = f"; {share:.0%} of them are used" if share < 0.95 else ""
    return f"calibrating with {kinds}{left}{used}"
