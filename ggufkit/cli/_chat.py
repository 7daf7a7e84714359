"""What `ggufkit chat` does: read the question, load the model, then answer once on stdout or talk in a terminal."""

import contextlib
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ggufkit import files
from ggufkit.cli import _chat_screen, _output
from ggufkit.errors import InputError, UsageError
from ggufkit.inference import session_file
from ggufkit.inference.conversation import Conversation
from ggufkit.inference.drafting import Drafting
from ggufkit.inference.engine import Engine
from ggufkit.inference.generation import FinishReason
from ggufkit.inference.options import EngineOptions
from ggufkit.inference.reasoning import Reasoning
from ggufkit.inference.session import ChatSession, WhenFull
from ggufkit.inference.templates import ChatTemplate
from ggufkit.llamacpp import binding, supervision

INTERRUPTED, READER_GONE = 130, 141


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What the command line asked for, but for the model and how it runs; None where it said nothing."""

    sampling: dict[str, Any] = field(default_factory=dict)
    system: str | None = None
    max_tokens: int | None = None  # -1: no limit
    template: Path | None = None
    template_values: dict[str, Any] = field(default_factory=dict)
    reasoning: str | None = None
    show_reasoning: bool = False
    when_full: str | None = None
    session: Path | None = None
    draft: Path | None = None
    single_turn: bool = False
    json: bool = False
    verbose: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot work. Raises UsageError."""
        if self.max_tokens == 0:
            raise UsageError("max_tokens must be positive, or -1 for no limit")
        if self.reasoning == "on" and self.sampling.get("grammar"):
            raise UsageError("--reasoning on and a grammar or schema do not go together: it would forbid the reasoning")

    def apply(self, session: ChatSession) -> None:
        """Change a session to what was asked for."""
        if self.system is not None:
            session.conversation = replace(session.conversation, system=self.system or None)
        session.sampling = replace(session.sampling or session.engine.sampling_defaults(), **self.sampling)
        if self.max_tokens is not None:
            session.max_tokens = None if self.max_tokens < 0 else self.max_tokens
        if self.when_full is not None:
            session.when_full = WhenFull(self.when_full)
        if self.reasoning is not None:
            session.reasoning = Reasoning(self.reasoning)


def question(prompt: str | None, wishes: Wishes) -> str | None:
    """Return what to ask once: what was piped, then the prompt; None to talk in the terminal.

    Raises:
        UsageError: there is nothing to answer and nobody to ask.
        InputError: the piped text is not UTF-8.
    """
    piped = piped_text()
    text = "\n\n".join(part for part in (piped, prompt) if part)
    if not text and piped is not None:
        raise UsageError("nothing to answer: there is no prompt and stdin is empty", hint='ggufkit chat MODEL "Hello"')
    if wishes.json and not text:
        raise UsageError("--json needs a prompt", hint='ggufkit chat MODEL "Hello" --json')
    return text or None


def run(model: Path, question: str | None, options: EngineOptions, wishes: Wishes) -> None:
    """Load the model, then answer once or talk.

    Raises:
        InputError: the template or the session cannot be read.
        OutputError: the session cannot be written.
        UsageError: reasoning was asked of a model that knows none.
        LlamaCppError: llama.cpp died.
    """
    template = read_template(wishes.template) if wishes.template else None
    if wishes.session:
        files.check_output(wishes.session, inputs=[model])
    saved = session_file.load(wishes.session) if wishes.session and wishes.session.exists() else None
    supervision.survive(model)
    with loaded(model, options, verbose=wishes.verbose) as engine:
        session = ChatSession(
            engine=engine,
            template=ChatTemplate.of(engine, template),
            conversation=Conversation(),
            variables=wishes.template_values,
        )
        if wishes.draft:
            engine.drafting = Drafting.open(wishes.draft, engine, options.most_drafted)
        if saved:
            saved.restore(session)
        wishes.apply(session)
        if session.reasoning is Reasoning.ON and not session.switch.works:
            raise UsageError("--reasoning on: neither the template nor the vocabulary of this model knows reasoning")
        if session.sampling:
            engine.check_grammar(session.sampling)
        try:
            if question:
                status = _answer_once(session, question, wishes)
            else:
                from ggufkit.cli import _chat_terminal

                status = _chat_terminal.talk(session, wishes)
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


def template_values(text: str | None) -> dict[str, Any]:
    """Read the values for the template from the command line. Raises UsageError when they are no JSON object."""
    if text is None:
        return {}
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"--chat-template-kwargs is not JSON: {error}") from None
    if not isinstance(values, dict):
        raise UsageError('--chat-template-kwargs must be a JSON object, as {"enable_thinking": false}')
    return values


def _answer_once(session: ChatSession, question: str, wishes: Wishes) -> int:
    reply = session.ask(question)
    if wishes.json:
        with _chat_screen.interruptible(reply):
            result = reply.result
        details = result.as_json()
        del details["text"]
        _output.print_json(
            {"model": str(session.engine.path), "answer": reply.answer, "reasoning": reply.reasoning, **details}
        )
    else:
        result = _chat_screen.stream(reply, show_reasoning=wishes.show_reasoning)
        _chat_screen.tell_about(session, reply)
    if wishes.session:
        session_file.save(session, wishes.session)
    return INTERRUPTED if result.finish_reason is FinishReason.INTERRUPTED else 0


@contextlib.contextmanager
def loaded(model: Path, options: EngineOptions, *, verbose: bool, quiet: bool = False) -> Iterator[Engine]:
    """Load a model, and say what a person should know about where it went.

    Raises:
        As `Engine.open`.
    """
    with contextlib.ExitStack() as stack:
        try:
            if _chat_screen.is_live() and not verbose and not quiet:
                with _output.stderr().status(f"Loading {model.name}"):
                    engine = stack.enter_context(Engine.open(model, options))
            else:
                engine = stack.enter_context(Engine.open(model, options))
        except BaseException:
            if verbose:
                print(*binding.log_lines(), sep="\n", file=sys.stderr)
            raise
        if quiet:
            yield engine
            return
        for line in (*(f"warning: {text}" for text in engine.placement.warnings), *engine.placement.lines):
            _chat_screen.tell(line)
        if engine.context_size > engine.training_context:
            _chat_screen.tell(
                f"warning: the model was trained on {engine.training_context} tokens of context; "
                f"beyond that it may talk nonsense"
            )
        yield engine


def piped_text(*, strip: bool = True) -> str | None:
    """Return all of stdin when it is not a terminal (without its last line ends, if `strip`); None when it is one."""
    if sys.stdin is None:
        return ""
    if sys.stdin.isatty():
        return None
    data = sys.stdin.buffer.read()
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"the text on stdin is not UTF-8 (byte {error.start} is {data[error.start]:#04x})") from None
    return text.rstrip("\n") if strip else text


def read_template(path: Path) -> str:
    """Read a chat template. Raises InputError."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise InputError(f"cannot read the chat template {path}: {reason}") from error
