"""The conversation in a terminal: a prompt, a line or several of them, and what happens with Ctrl-C and Ctrl-D."""

import sys

from ggufkit.cli import _chat_screen, _errors
from ggufkit.cli._chat import Wishes
from ggufkit.cli._chat_commands import Commands
from ggufkit.cli._chat_lines import LineEditor
from ggufkit.errors import GgufkitError, UsageError
from ggufkit.inference.session import ChatSession

_PROMPT, _MORE = "> ", ". "
_QUOTES = '"""'


def talk(session: ChatSession, wishes: Wishes) -> int:
    """Read messages and commands until the user leaves; return the exit code."""
    with LineEditor() as editor:
        commands = Commands(session, wishes, editor)
        if not wishes.single_turn:
            _chat_screen.tell(
                f"{session.engine.description}, {session.engine.context_size} tokens of context. /help lists commands."
            )
            commands.greet()
        try:
            while _goes_on(commands, editor, wishes):
                pass
        except KeyboardInterrupt:  # the second one in a row
            print(file=sys.stderr)
    return 0


def _goes_on(commands: Commands, editor: LineEditor, wishes: Wishes) -> bool:
    """Take one message or command; tell whether another may follow. Raises KeyboardInterrupt for two in a row."""
    try:
        text = _read_message(editor)
    except KeyboardInterrupt:
        _chat_screen.tell("\n(Ctrl-C again, Ctrl-D or /exit leaves)")
        text = _read_message(editor)
    if text is None:
        return False
    if text.strip():
        try:
            commands.take(text)
        except GgufkitError as error:
            # In a conversation a mistake costs one message, not all of them.
            _errors.report(_in_chat(error))
        except (KeyboardInterrupt, EOFError):  # the latter: Ctrl-D while a question was being changed
            print(file=sys.stderr)
    return not commands.left and not (wishes.single_turn and commands.has_asked)


def _in_chat(error: GgufkitError) -> GgufkitError:
    """Give an error that has no hint of its own, which would be about the command line, one about commands."""
    if isinstance(error, UsageError) and error.hint is None:
        return UsageError(str(error), hint="/help lists all commands")
    return error


def _read_message(editor: LineEditor) -> str | None:
    """Read a line, or several between triple quotes; None at the end of input."""
    try:
        return _read_lines(editor)
    except EOFError:
        print(file=sys.stderr)
        return None


def _read_lines(editor: LineEditor) -> str:
    line = editor.read(_PROMPT)
    if not line.lstrip().startswith(_QUOTES):
        return line
    lines = [line.lstrip()[len(_QUOTES) :]]
    while not lines[-1].rstrip().endswith(_QUOTES):
        lines.append(editor.read(_MORE))
    lines[-1] = lines[-1].rstrip()[: -len(_QUOTES)]
    return "\n".join(lines).strip("\n")
