"""How a chat looks: replies on stdout as they come, reasoning folded, and what people should know on stderr."""

import contextlib
import os
import signal
import sys
import time
from collections.abc import Iterator
from types import FrameType

from ggufkit.counting import counted
from ggufkit.inference.generation import GenerationResult
from ggufkit.inference.session import ChatSession, Reply

_SECONDS_BETWEEN_UPDATES = 0.1
# What moves the cursor, changes colours or talks to the terminal, and what makes text run the other way; all else,
# such as the joiners of emoji and of Persian, or the wide space of Japanese, is text.
_CONTROLS = {*range(0x20), *range(0x7F, 0xA0), *range(0x202A, 0x202F), *range(0x2066, 0x206A)} - {ord("\n"), ord("\t")}
_HARMLESS = dict.fromkeys(_CONTROLS, "�") | {ord("\r"): ""}


def is_live() -> bool:
    """Tell whether a person watches a terminal that can move its cursor: only then are control codes written."""
    streams = (sys.stdin, sys.stdout, sys.stderr)
    return all(stream is not None and stream.isatty() for stream in streams) and os.environ.get("TERM") != "dumb"


def stream(reply: Reply, *, show_reasoning: bool) -> GenerationResult:
    """Print a reply on stdout as it comes; Ctrl-C ends it, a second Ctrl-C ends the program.

    Its reasoning goes to stderr: a line that says how long it took, or all of it.
    """
    last = "\n"
    fold = _Shown() if show_reasoning else _Folded(reply)
    with interruptible(reply):
        try:
            for piece in reply:
                if piece.is_reasoning:
                    fold.add(piece.text)
                    continue
                fold.close()
                last = piece.text
                _write(piece.text)
        finally:
            fold.close()
    if not last.endswith("\n"):
        _write("\n")
    return reply.result


@contextlib.contextmanager
def interruptible(reply: Reply) -> Iterator[None]:
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


class _Folded:
    """Reasoning as one line: a counter while it goes on, and how long it was afterwards."""

    def __init__(self, reply: Reply) -> None:
        self._reply = reply
        self._started = 0.0
        self._updated = 0.0
        self._open = False

    def add(self, _text: str) -> None:
        now = time.monotonic()
        if not self._open:
            self._open, self._started = True, now
        if is_live() and now - self._updated >= _SECONDS_BETWEEN_UPDATES:
            self._updated = now
            count = counted(self._reply.reasoning_tokens, "token")
            print(f"\r\x1b[2K{_dim(f'thinking … {count}')}", end="", file=sys.stderr)
            sys.stderr.flush()

    def close(self) -> None:
        if self._open:
            self._open = False
            if is_live():
                print("\r\x1b[2K", end="", file=sys.stderr)
            seconds = time.monotonic() - self._started
            tell(f"(thought for {counted(self._reply.reasoning_tokens, 'token')}, {seconds:.1f} s)")


class _Shown:
    """Reasoning in full, dim where that is possible."""

    def __init__(self) -> None:
        self._last = "\n"

    def add(self, text: str) -> None:
        self._last = text
        print(_dim(printable(text)), end="", file=sys.stderr, flush=True)

    def close(self) -> None:
        if not self._last.endswith("\n"):
            print(file=sys.stderr)
        self._last = "\n"


def timings(result: GenerationResult) -> str:
    """Sum up the speed of a reply in one line."""
    read = result.prompt_tokens - result.reused_tokens
    reused = f" and {result.reused_tokens} reused" if result.reused_tokens else ""
    return (
        f"{counted(result.generated_tokens, 'token')}, {result.tokens_per_second:.1f} tokens per second"
        f" (prompt: {counted(read, 'token')}{reused}, {result.prompt_tokens_per_second:.1f} per second;"
        f" first token after {result.time_to_first_token:.2f} s)"
    )


def meter(used: int, size: int) -> str:
    """Say how full the context is."""
    return f"{used} of {size} tokens of context in use ({used / size:.0%})"


def tell(text: str) -> None:
    """Say something to people, on stderr; dim where that is possible and wanted."""
    print(_dim(text), file=sys.stderr, flush=True)


def tell_about(session: ChatSession, reply: Reply, *, with_meter: bool = False) -> None:
    """Say what a reader of the reply should know: what was forgotten, why it ended, how fast it was."""
    result = reply.result
    size = session.engine.context_size
    if session.dropped:
        count = "oldest exchange was" if session.dropped == 1 else f"{session.dropped} oldest exchanges were"
        tell(f"the context was full: the {count} dropped")
    if reply.is_thinking and not reply.answer:
        tell("the reply ended while the model was still thinking")
    if result.context_full:
        tell(f"the reply was cut off: the context of {size} tokens is full (-c makes it larger)")
    if drafting := session.engine.drafting:
        tell(f"drafts: {drafting.accepted} of {drafting.drafted} tokens right, so far")
    used = result.prompt_tokens + result.generated_tokens
    tell(timings(result) + (f"; context {used}/{size} ({used / size:.0%})" if with_meter else ""))


def printable(text: str) -> str:
    """Replace control characters: those of a model must not work on a terminal."""
    return text.translate(_HARMLESS)


def _dim(text: str) -> str:
    return f"\x1b[2m{text}\x1b[0m" if is_live() and not os.environ.get("NO_COLOR") else text


def _write(text: str) -> None:
    """Write a part of the reply at once."""
    if sys.stdout.isatty():
        text = printable(text)
    sys.stdout.buffer.write(text.encode("utf-8", "replace"))
    sys.stdout.buffer.flush()
