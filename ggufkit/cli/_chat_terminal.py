"""The conversation in a terminal: a prompt with history, a few commands that begin with a slash."""

import contextlib
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

from ggufkit.cli import _chat, _errors
from ggufkit.errors import GgufkitError, UsageError
from ggufkit.inference.generation import GenerationResult
from ggufkit.inference.options import SamplingOptions
from ggufkit.inference.session import ChatSession, Reply

_PROMPT, _MORE = "> ", ". "
_QUOTES = '"""'

HELP = f"""\
/clear              forget the conversation (the system prompt stays)
/system [TEXT]      show or change the system prompt
/regen              let the model answer the last question anew
/set [NAME VALUE]   show or change how tokens are chosen: temperature 0.2
/stats              show how full the context is, and how fast the last reply was
/exit               leave (or Ctrl-D)
{_QUOTES}                 begin and end a message of several lines
Ctrl-C stops a reply."""


def talk(session: ChatSession, *, single_turn: bool) -> int:
    """Read messages and commands until the user leaves; return the exit code."""
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 - importing it gives input() line editing and history

    if not single_turn:
        _chat.tell(
            f"{session.engine.description}, {session.engine.context_size} tokens of context. /help lists commands."
        )
    terminal = _Terminal(session)
    while not terminal.left:
        try:
            text = _read_message()
        except EOFError:
            print(file=sys.stderr)
            break
        except KeyboardInterrupt:
            _chat.tell("\n(Ctrl-D or /exit leaves)")
            continue
        if not text.strip():
            continue
        try:
            terminal.take(text)
        except GgufkitError as error:
            # In a conversation a mistake costs one message, not all of them.
            _errors.report(error)
        if single_turn and terminal.last:
            break
    return 0


class _Terminal:
    """The state of the conversation that is not the model's: the last result, and whether the user has left."""

    def __init__(self, session: ChatSession) -> None:
        self.session = session
        self.last: GenerationResult | None = None
        self.left = False
        self._commands: dict[str, Callable[[str], None]] = {
            "/help": lambda _: print(HELP, file=sys.stderr),
            "/?": lambda _: print(HELP, file=sys.stderr),
            "/clear": self._clear,
            "/system": self._system,
            "/regen": lambda _: self._reply(self.session.regenerate()),
            "/set": self._set,
            "/stats": self._stats,
            "/exit": self._leave,
            "/quit": self._leave,
            "/bye": self._leave,
        }

    def take(self, text: str) -> None:
        """Obey a command, or send a message to the model."""
        name, _, rest = text.strip().partition(" ")
        if name in self._commands:
            self._commands[name](rest.strip())
        elif text.startswith("/") and name[1:].isalpha():
            raise UsageError(f"unknown command {name}", hint="/help lists them; a space in front sends it as a message")
        else:
            self._reply(self.session.ask(text))

    def _reply(self, reply: Reply) -> None:
        self.last = _chat.stream(reply)
        _chat.tell_about(self.session, self.last)

    def _clear(self, _: str) -> None:
        self.session.conversation = self.session.conversation.cleared()
        _chat.tell("forgotten")

    def _system(self, text: str) -> None:
        if text:
            self.session.conversation = replace(self.session.conversation, system=text)
        _chat.tell(self.session.conversation.system or "(no system prompt)")

    def _set(self, text: str) -> None:
        options = self.session.sampling or self.session.engine.sampling_defaults()
        if text:
            name, _, value = text.partition(" ")
            kinds = {option.name: option for option in fields(SamplingOptions)}
            if name not in kinds:
                raise UsageError(f"unknown option {name}", hint=f"one of {', '.join(kinds)}")
            kind = float if isinstance(kinds[name].default, float) else int
            try:
                changed: dict[str, Any] = {name: kind(value)}
            except ValueError:
                raise UsageError(f"{name} must be a number, not {value!r}") from None
            options = self.session.sampling = replace(options, **changed)
        _chat.tell(", ".join(f"{option.name} {getattr(options, option.name)}" for option in fields(options)))

    def _stats(self, _: str) -> None:
        used = len(self.session.tokens(self.session.conversation)) if self.session.conversation.messages else 0
        _chat.tell(f"{used} of {self.session.engine.context_size} tokens of context in use")
        if self.last:
            _chat.tell(_chat.timings(self.last))
            _chat.tell(f"seed {self.last.seed}, peak memory {self.last.peak_memory / 1e6:.0f} MB")

    def _leave(self, _: str) -> None:
        self.left = True


def _read_message() -> str:
    """Read a line, or several between triple quotes. Raises EOFError at the end of input."""
    line = _read_line(_PROMPT)
    if not line.lstrip().startswith(_QUOTES):
        return line
    lines = [line.lstrip()[len(_QUOTES) :]]
    while not lines[-1].rstrip().endswith(_QUOTES):
        lines.append(_read_line(_MORE))
    lines[-1] = lines[-1].rstrip()[: -len(_QUOTES)]
    return "\n".join(lines).strip("\n")


def _read_line(prompt: str) -> str:
    if sys.stdout.isatty():
        return input(prompt)
    # stdout goes elsewhere and is for replies only: input() would write the prompt there.
    print(prompt, end="", file=sys.stderr, flush=True)
    line = sys.stdin.readline()
    if not line:
        raise EOFError
    return line.rstrip("\n")
