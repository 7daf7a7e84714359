"""What `ggufkit generate` does: one answer on stdout as it comes, or as JSON; files of prompts in `_generate_batch`."""

import contextlib
import functools
import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any

from ggufkit.cli import _chat, _chat_screen, _output
from ggufkit.errors import InputError, UsageError
from ggufkit.inference.engine import Engine
from ggufkit.inference.generation import FinishReason, Generation
from ggufkit.inference.options import EngineOptions
from ggufkit.inference.prompts import AnswerSplitter, PromptMaker, PromptOptions
from ggufkit.inference.reasoning import Reasoning
from ggufkit.inference.scores import as_json
from ggufkit.llamacpp import binding, supervision

INTERRUPTED, READER_GONE = 130, 141


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What the command line asked for, but for the model and how it runs; None where it said nothing."""

    sampling: dict[str, Any] = field(default_factory=dict)
    max_tokens: int | None = None  # -1: no limit
    stop: tuple[str, ...] = ()
    top_scores: int | None = None
    raw: bool = False
    system: str | None = None
    template: Path | None = None
    template_values: dict[str, Any] = field(default_factory=dict)
    reasoning: str | None = None
    prompt: str | None = None
    batch: Path | None = None
    output: Path | None = None
    parallel: int | None = None
    again: bool = False
    json: bool = False
    quiet: bool = False
    verbose: bool = False

    def __post_init__(self) -> None:
        """Refuse what does not go together. Raises UsageError."""
        if self.max_tokens == 0:
            raise UsageError("-n must be positive, or -1 for no limit")
        if not all(self.stop):
            raise UsageError("--stop must not be empty")
        if self.top_scores is not None and not (self.json or self.batch):
            raise UsageError("--logprobs needs --json or --batch")
        if self.reasoning == "on" and self.sampling.get("grammar"):
            raise UsageError("--reasoning on and a grammar or schema do not go together: it would forbid the reasoning")
        if self.batch:
            if self.output is None:
                raise UsageError("--batch needs -o", hint="ggufkit generate MODEL --batch prompts.jsonl -o out.jsonl")
            if self.prompt is not None:
                raise UsageError("a PROMPT and --batch do not go together")
            if str(self.output) == "-":
                raise UsageError("answers to --batch go to a file, so that they can be gone on with", hint="-o FILE")
        else:
            for name, value in (("-o", self.output), ("-np", self.parallel), ("--again", self.again)):
                if value:
                    raise UsageError(f"{name} goes with --batch only")
        self.prompt_options(None)

    def prompt_options(self, template: str | None) -> PromptOptions:
        """Return how prompts are made. Raises UsageError."""
        reasoning = Reasoning(self.reasoning or "auto")
        if self.sampling.get("grammar") and not self.raw and self.reasoning is None:
            reasoning = Reasoning.OFF  # a grammar is about the whole reply, reasoning included
        return PromptOptions(
            raw=self.raw,
            system=self.system,
            template=template if self.template else None,
            variables=self.template_values,
            reasoning=reasoning,
        )

    @property
    def most_tokens(self) -> int | None:
        """Return the limit of a reply; None when there is none."""
        return None if self.max_tokens is None or self.max_tokens < 0 else self.max_tokens


def question(wishes: Wishes) -> str:
    """Return what is to be answered: what was piped, then the prompt; empty for a file of prompts.

    Raises:
        UsageError: there is nothing to answer.
        InputError: the piped text is not UTF-8.
    """
    if wishes.batch:
        return ""
    prompt = None if wishes.prompt == "-" else wishes.prompt
    # A raw text is continued as it is, line end included.
    piped = _chat.piped_text(strip=not wishes.raw) if wishes.prompt == "-" or _is_piped() else None
    text = ("" if wishes.raw else "\n\n").join(part for part in (piped, prompt) if part)
    if not text:
        raise UsageError(
            "nothing to answer: there is no prompt, and nothing was piped", hint='ggufkit generate MODEL "Hello"'
        )
    return text


def run(model: Path, question: str, options: EngineOptions, wishes: Wishes) -> None:
    """Answer the question, or the file of prompts.

    Raises:
        InputError: the template cannot be read, or the prompt does not fit.
        UsageError: options do not suit the model.
        LlamaCppError: llama.cpp died.
    """
    template = _chat.read_template(wishes.template) if wishes.template else None
    supervision.survive(model)
    try:
        if wishes.batch:
            from ggufkit.cli import _generate_batch

            status = _generate_batch.run(model, options, wishes, wishes.prompt_options(template))
        else:
            with _chat.loaded(model, options, verbose=wishes.verbose, quiet=wishes.quiet) as engine:
                status = _answer(engine, question, wishes, wishes.prompt_options(template))
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader of our output has left, as `head` does; the interpreter must not try to flush at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = READER_GONE
    finally:
        if wishes.verbose:
            print(*binding.log_lines(), sep="\n", file=sys.stderr)
    if status:
        sys.exit(status)


def _answer(engine: Engine, question: str, wishes: Wishes, options: PromptOptions) -> int:
    maker = PromptMaker(engine, options)
    if maker.raw and not options.raw and not wishes.quiet:
        _chat_screen.tell("this model has no chat template: the text is continued as it is")
    tokens = maker.tokens(question)
    if not tokens:
        raise InputError("the prompt is empty for this model: it makes no tokens of it")
    generation = engine.generate(
        tokens,
        replace(engine.sampling_defaults(), **wishes.sampling),
        max_tokens=wishes.most_tokens,
        stop=wishes.stop,
        top_scores=wishes.top_scores,
    )
    splitter = maker.splitter(tokens)
    with interruptible(engine.interrupt):
        _stream(generation, splitter, None if wishes.json else _write)
    result = generation.result
    if wishes.json:
        details = result.as_json()
        del details["text"]
        scores = (
            {}
            if result.scores is None
            else {"logprobs": as_json(result.scores, functools.partial(engine.token_bytes, special=True))}
        )
        reasoning = {"reasoning": splitter.reasoning.rstrip()} if splitter.reasoning else {}
        _output.print_json({"model": str(engine.path), "text": splitter.answer, **reasoning, **details, **scores})
    elif not wishes.quiet:
        if result.context_full:
            _chat_screen.tell(f"the reply was cut off: the context of {engine.context_size} tokens is full (-c)")
        if splitter.reasoning and not splitter.answer:
            _chat_screen.tell("the reply ended while the model was still thinking")
        _chat_screen.tell(_chat_screen.timings(result))
    return INTERRUPTED if result.finish_reason is FinishReason.INTERRUPTED else 0


def _stream(generation: Generation, splitter: AnswerSplitter, write: Callable[[str], None] | None) -> None:
    """Take the pieces of a reply; write what belongs to the answer."""
    last = ""
    for piece in generation:
        if (text := splitter.feed(piece.text, piece.token)) and write:
            write(text)
            last = text
    if (text := splitter.finish()) and write:
        write(text)
        last = text
    if write and sys.stdout.isatty() and not last.endswith("\n"):
        write("\n")  # a terminal's next line; nothing that a file or a pipe would get


def _write(text: str) -> None:
    """Write a part of the reply at once; on a terminal, control characters of a model must not work."""
    if sys.stdout.isatty():
        text = _chat_screen.printable(text)
    sys.stdout.buffer.write(text.encode("utf-8", "replace"))
    sys.stdout.buffer.flush()


@contextlib.contextmanager
def interruptible(stop: Callable[[], None]) -> Iterator[None]:
    """Let the first Ctrl-C call `stop`, and only the second one end the program."""
    asked = False

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        stop()

    before = signal.signal(signal.SIGINT, on_signal)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _is_piped() -> bool:
    return sys.stdin is not None and not sys.stdin.isatty()
