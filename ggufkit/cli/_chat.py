"""What `ggufkit chat` does with a loaded model: one answer on stdout, or a conversation in a terminal."""

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any

from ggufkit.cli import _output
from ggufkit.errors import InputError, UsageError
from ggufkit.inference.conversation import Conversation
from ggufkit.inference.engine import Engine
from ggufkit.inference.generation import FinishReason, GenerationResult
from ggufkit.inference.options import EngineOptions
from ggufkit.inference.session import ChatSession, Reply
from ggufkit.inference.templates import ChatTemplate
from ggufkit.llamacpp import binding, native

INTERRUPTED, READER_GONE = 130, 141


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What the command line asked for, but for model and prompt."""

    engine: EngineOptions = field(default_factory=EngineOptions)
    sampling: dict[str, Any] = field(default_factory=dict)
    system: str | None = None
    max_tokens: int | None = None
    template: Path | None = None
    single_turn: bool = False
    json: bool = False
    verbose: bool = False


def run(model: Path, prompt: str | None, wishes: Wishes) -> None:
    """Load the model, then answer once or talk.

    Raises:
        UsageError: there is nothing to answer and nobody to ask.
        InputError: the piped text is not UTF-8, or the template file cannot be read.
    """
    piped = _piped_text()
    question = "\n\n".join(text for text in (piped, prompt) if text)
    at_terminal = piped is None
    if not question and not at_terminal:
        raise UsageError("nothing to answer: there is no prompt and stdin is empty", hint='ggufkit chat MODEL "Hello"')
    if wishes.json and not question:
        raise UsageError("--json needs a prompt", hint='ggufkit chat MODEL "Hello" --json')
    template = _read_template(wishes.template) if wishes.template else None
    with _loaded(model, wishes) as engine:
        session = ChatSession(
            engine=engine,
            template=ChatTemplate.of(engine, template),
            conversation=Conversation(wishes.system),
            sampling=replace(engine.sampling_defaults(), **wishes.sampling),
            max_tokens=wishes.max_tokens,
        )
        try:
            if question:
                status = _answer_once(session, question, as_json=wishes.json)
            else:
                from ggufkit.cli import _chat_terminal

                status = _chat_terminal.talk(session, single_turn=wishes.single_turn)
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


def stream(reply: Reply) -> GenerationResult:
    """Print a reply on stdout as it comes; Ctrl-C ends it, a second Ctrl-C ends the program."""
    last = "\n"
    with _interruptible(reply):
        for piece in reply:
            if piece.text:
                last = piece.text
                _write(piece.text)
    if not last.endswith("\n"):
        _write("\n")
    return reply.result


def timings(result: GenerationResult) -> str:
    """Sum up the speed of a reply in one line."""
    read = result.prompt_tokens - result.reused_tokens
    reused = f" and {result.reused_tokens} reused" if result.reused_tokens else ""
    return (
        f"{result.generated_tokens} tokens, {result.tokens_per_second:.1f} tokens per second (prompt: {read} tokens"
        f"{reused}, {result.prompt_tokens_per_second:.1f} per second; first token after "
        f"{result.time_to_first_token:.2f} s)"
    )


def tell(text: str) -> None:
    """Say something to people, on stderr; dim where that is possible and wanted."""
    dim = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    print(f"\x1b[2m{text}\x1b[0m" if dim else text, file=sys.stderr, flush=True)


def tell_about(session: ChatSession, result: GenerationResult) -> None:
    """Say what a reader of the reply should know: what was forgotten, why it ended, how fast it was."""
    if session.dropped:
        tell(f"the context is full: the {session.dropped} oldest exchanges were dropped")
    if result.context_full:
        tell(f"the reply was cut off: the context of {session.engine.context_size} tokens is full (-c makes it larger)")
    tell(timings(result))


def _answer_once(session: ChatSession, question: str, *, as_json: bool) -> int:
    reply = session.ask(question)
    if as_json:
        with _interruptible(reply):
            result = reply.result
        details = result.as_json()
        answer = details.pop("text")
        _output.print_json({"model": str(session.engine.path), "answer": answer, **details})
    else:
        result = stream(reply)
        tell_about(session, result)
    return INTERRUPTED if result.finish_reason is FinishReason.INTERRUPTED else 0


@contextlib.contextmanager
def _loaded(model: Path, wishes: Wishes) -> Iterator[Engine]:
    with contextlib.ExitStack() as stack:
        try:
            if sys.stderr.isatty() and not wishes.verbose:
                with _output.stderr().status(f"Loading {model.name}"):
                    engine = stack.enter_context(Engine.open(model, wishes.engine))
            else:
                engine = stack.enter_context(Engine.open(model, wishes.engine))
        except BaseException:
            if wishes.verbose:
                print(*binding.log_lines(), sep="\n", file=sys.stderr)
            raise
        if isinstance(wishes.engine.gpu_layers, int) and wishes.engine.gpu_layers and not native.has_gpu():
            tell("warning: -ngl has no effect: this build of llama.cpp sees no GPU")
        if engine.context_size > engine.training_context:
            tell(
                f"warning: the model was trained on {engine.training_context} tokens of context; "
                f"beyond that it may talk nonsense"
            )
        yield engine


@contextlib.contextmanager
def _interruptible(reply: Reply) -> Iterator[None]:
    """Let Ctrl-C end the reply instead of the program."""
    asked = False

    def stop(_number: int, _frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        reply.interrupt()

    before = signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _piped_text() -> str | None:
    """Return all of stdin when it is not a terminal (without its last line end); None when it is one."""
    if sys.stdin is None:
        return ""
    if sys.stdin.isatty():
        return None
    data = sys.stdin.buffer.read()
    try:
        return data.decode("utf-8").rstrip("\n")
    except UnicodeDecodeError as error:
        raise InputError(f"the text on stdin is not UTF-8 (byte {error.start} is {data[error.start]:#04x})") from None


def _read_template(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise InputError(f"cannot read the chat template {path}: {reason}") from error


def _write(text: str) -> None:
    """Write a part of the reply at once; on a terminal, control characters of a model must not work."""
    if sys.stdout.isatty():
        text = "".join(mark if mark.isprintable() or mark in "\n\t" else "\ufffd" for mark in text)
    sys.stdout.buffer.write(text.encode("utf-8", "replace"))
    sys.stdout.buffer.flush()
