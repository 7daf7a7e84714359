r'''Modelfiles: written so that Ollama reads back what was meant, which its grammar does not always allow.

Read from parser/parser.go. A value ends at a newline, or goes on until its quotes are closed at one; quotes are `"` or
`"""`, without escapes. What does not print is dropped (strconv.IsPrint), but for newlines and tabs in quotes. So each
value is read back here by the same grammar, and what would be read otherwise is refused, by name.
'''

import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

from ggufkit.errors import UsageError
from ggufkit.exports.ollama import parameters as settings
from ggufkit.exports.ollama.description import Kind
from ggufkit.exports.ollama.export import ExportOptions, Plan
from ggufkit.exports.ollama.messages import ROLES

_COMMANDS = {
    *("from", "license", "template", "system", "adapter", "draft"),
    *("renderer", "parser", "parameter", "message", "requires"),
}


@dataclass(frozen=True, slots=True)
class Command:
    """One command of a Modelfile: `key` is the name of a parameter or the role of a message."""

    name: str
    value: str
    key: str = ""


class ModelfileError(ValueError):
    """A text that Ollama's parser refuses."""


def commands_of(plan: Plan, options: ExportOptions) -> list[Command]:
    """Say in commands what `export` would write into the store."""
    commands = [
        Command("adapter" if kind is Kind.ADAPTER else "from", str(path.absolute()))
        for kind, path in sorted(plan.files, key=lambda file: file[0] is not Kind.MODEL)
    ]
    # Ollama merges the parts of a model as well; each of them is named by a FROM of its own.
    commands[1:1] = [
        Command("from", str(part.path.absolute())) for part in (plan.merged.parts[1:] if plan.merged else ())
    ]
    for key, value in plan.parameters.items():
        texts = value if isinstance(value, list) else [settings.as_text(value)]
        commands += [Command("parameter", text, key) for text in texts]
    commands += [Command("template", options.template)] if options.template else []
    commands += [Command("system", options.system)] if options.system else []
    commands += [Command("license", text) for text in options.licenses]
    return commands + [Command("message", message.content, message.role) for message in options.messages]


def write(commands: Iterable[Command]) -> str:
    """Write a Modelfile.

    Raises:
        UsageError: naming a text that Ollama would not read back as it is.
    """
    commands = list(commands)
    text = "".join(_line(command) for command in commands)
    if read(text) != commands:  # each of them was read back alone: together they must be the same
        raise UsageError("a Modelfile with these texts would be read otherwise by Ollama", hint=_INSTEAD)
    return text


_INSTEAD = "leave out --modelfile: the model store takes any text"


def _line(command: Command) -> str:
    start = f"{command.name.upper()} {command.key} " if command.key else f"{command.name.upper()} "
    # FROM is never quoted by Ollama itself, and a path needs it only for blanks at its ends.
    for quote in ("", '"""', '"') if '"' in command.value else ("", '"', '"""'):
        line = f"{start}{quote}{command.value}{quote}\n"
        try:
            found = read(line if command.name == "from" else f"FROM x\n{line}")
        except ModelfileError:
            continue
        if found[-1:] == [command] and len(found) == (1 if command.name == "from" else 2):
            return line
    raise UsageError(f"{_named(command)} cannot be written in a Modelfile: {_reason(command.value)}", hint=_INSTEAD)


def _named(command: Command) -> str:
    words = f"{command.name.upper()} {command.key}".strip()
    shown = command.value if len(command.value) <= 40 else f"{command.value[:40]}…"
    return f"{words} {shown!r}"


def _reason(value: str) -> str:
    if not value.strip(_BLANK):
        return "it is empty, or nothing but blanks"
    dropped = next((character for character in value if not _is_kept(character)), None)
    if dropped is not None:
        return f"Ollama drops U+{ord(dropped):04X}, which does not print"
    if '"""' in value:
        return 'it holds """, which ends a text there'
    return "its quotes would end the text early"


# ---- Ollama's grammar

_BLANK = "\t\n\v\f\r \x85\xa0"  # strings.TrimSpace, of what can be in a buffer


def read(text: str) -> list[Command]:
    """Read a Modelfile as Ollama does.

    Raises:
        ModelfileError: Ollama refuses it.
    """
    commands: list[Command] = []
    state, name, key, buffer = "nil", "", "", ""
    for character in text:
        following, kept = _step(character, state)
        if following != state:
            if state == "name":
                if buffer.lower() not in _COMMANDS:
                    raise ModelfileError(f"{buffer!r} is no command")
                name = buffer.lower()
                following = {"parameter": "parameter", "message": "message"}.get(name, following)
            elif state == "parameter":
                key = buffer
            elif state == "message":
                if buffer not in ROLES:
                    raise ModelfileError(f"{buffer!r} is no role")
                key = buffer
            elif state == "value":
                value = unquoted(buffer.strip(_BLANK))
                if value is None or character in " \t":
                    buffer += kept
                    continue
                commands.append(Command(name, value, key))
                key = ""
            buffer, state = "", following
        if kept and _is_printed(kept):
            buffer += kept
    if state == "value":
        value = unquoted(buffer.strip(_BLANK))
        if value is None:
            raise ModelfileError("a quote is not closed")
        commands.append(Command(name, value, key))
    elif state not in {"nil", "comment"}:
        raise ModelfileError("the file ends within a command")
    if not any(command.name == "from" for command in commands):
        raise ModelfileError("there is no FROM")
    return commands


def unquoted(text: str) -> str | None:
    """Take the quotes off a text; None while they are not closed."""
    for quote in ('"""', '"'):
        if text.startswith(quote):
            closed = len(text) >= 2 * len(quote) and text.endswith(quote)
            return text[len(quote) : -len(quote)] if closed else None
    return text


def _step(character: str, state: str) -> tuple[str, str]:
    """Give the next state, and what of the character is kept."""
    blank, newline = character in " \t", character in "\r\n"
    letter = character.isascii() and character.isalpha()
    if state == "nil":
        if character == "#":
            return "comment", ""
        return ("nil", "") if blank or newline else ("name", character)
    if state == "comment":
        return ("nil", "") if newline else ("comment", "")
    if state == "value":
        return ("nil", character) if blank or newline else ("value", character)
    word = letter or (state == "parameter" and character.isascii() and (character.isdigit() or character == "_"))
    if word:
        return state, character
    if blank:
        return "value", ""
    raise ModelfileError(f"{character!r} does not belong into a {state}")


def _is_printed(character: str) -> bool:
    """Go's strconv.IsPrint: letters, marks, numbers, punctuation, symbols, and of all spaces U+0020 alone."""
    return character == " " or unicodedata.category(character)[0] in "LMNPS"


def _is_kept(character: str) -> bool:
    return character in "\n\r\t" or _is_printed(character)
