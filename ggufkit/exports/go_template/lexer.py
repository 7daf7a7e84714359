"""A template cut into text and the words of its actions (text/template/parse/lex.go)."""

import enum
import re
from dataclasses import dataclass

from ggufkit.exports.go_template.errors import GoTemplateError

_SPACE = " \t\r\n"
_KEYWORDS = {*("if", "else", "end", "range", "with", "break", "continue", "nil", "define", "block", "template")}
_WORD = re.compile(
    r"""(?P<string>"(?:[^"\\\n]|\\.)*")
    | (?P<raw>`[^`]*`)
    | (?P<character>'(?:[^'\\\n]|\\.)+')
    | (?P<number>[+-]?(?:0[xX][0-9a-fA-F_]+|0[oO]?[0-7_]+(?![0-9.eE])|0[bB][01_]+
        |(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)(?:[eE][+-]?[0-9]+)?)(?![\w.]))
    | (?P<declare>:=) | (?P<assign>=) | (?P<pipe>\|) | (?P<open>\() | (?P<close>\)) | (?P<comma>,)
    | (?P<field>\.[^\W\d]\w*) | (?P<variable>\$\w*) | (?P<dot>\.)
    | (?P<name>[^\W\d]\w*) | (?P<space>[ \t\r\n]+)""",
    re.VERBOSE,
)
_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|[0-7]{3}|.)", re.DOTALL)
_LETTERS = {"a": "\a", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t", "v": "\v", "\\": "\\", "'": "'", '"': '"'}


class Kind(enum.Enum):
    """What a word is."""

    TEXT = enum.auto()
    START = enum.auto()  # of an action
    END = enum.auto()
    STRING = enum.auto()
    NUMBER = enum.auto()
    BOOL = enum.auto()
    NAME = enum.auto()  # of a function
    KEYWORD = enum.auto()
    FIELD = enum.auto()
    VARIABLE = enum.auto()
    DOT = enum.auto()
    DECLARE = enum.auto()
    ASSIGN = enum.auto()
    PIPE = enum.auto()
    OPEN = enum.auto()
    CLOSE = enum.auto()
    COMMA = enum.auto()
    SPACE = enum.auto()


@dataclass(frozen=True, slots=True)
class Token:
    """A word: `value` is what it stands for, such as a string without its quotes."""

    kind: Kind
    value: str | int | float | bool
    line: int


def tokens(source: str) -> list[Token]:
    """Cut a template into words. Raises GoTemplateError."""
    found: list[Token] = []
    at = 0
    trims = False  # whether the action before wants the blanks after it gone
    while True:
        start = source.find("{{", at)
        text = source[at:] if start < 0 else source[at:start]
        line = source.count("\n", 0, at) + 1
        if trims:
            text = text.lstrip(_SPACE)
        if start < 0:
            return [*found, Token(Kind.TEXT, text, line)] if text else found
        at = start + 2
        if source.startswith("-", at) and source[at + 1 : at + 2] in tuple(_SPACE):
            text = text.rstrip(_SPACE)
            at += 2
        if text:
            found.append(Token(Kind.TEXT, text, line))
        if source.startswith("/*", at):
            at, trims = _comment(source, at)
        else:
            words, at, trims = _action(source, at)
            found += words


def _comment(source: str, at: int) -> tuple[int, bool]:
    line = source.count("\n", 0, at) + 1
    end = source.find("*/", at)
    if end < 0:
        raise GoTemplateError("a comment is not closed", line)
    found = re.compile(r"[ \t\r\n]-\}\}|\}\}").match(source, end + 2)
    if not found:
        raise GoTemplateError("a comment ends before its action does", line)
    return found.end(), found[0] != "}}"


def _action(source: str, at: int) -> tuple[list[Token], int, bool]:
    found = [Token(Kind.START, "{{", source.count("\n", 0, at) + 1)]
    depth = 0
    while True:
        line = source.count("\n", 0, at) + 1
        closing = re.compile(r"[ \t\r\n]-\}\}|\}\}").match(source, at)
        if closing:
            if depth:
                raise GoTemplateError("a parenthesis is not closed", line)
            return [*found, Token(Kind.END, "}}", line)], closing.end(), closing[0] != "}}"
        word = _WORD.match(source, at)
        if word and word.lastgroup == "space" and source.startswith("-}}", word.end()):
            at = word.end() - 1  # the last blank belongs to the trim marker
            if word.end() - word.start() > 1:
                found.append(Token(Kind.SPACE, " ", line))
            continue
        if not word:
            rest = source[at : at + 10]
            raise GoTemplateError(f"an action is not closed, or {rest!r} does not belong into it", line)
        depth += {"open": 1, "close": -1}.get(word.lastgroup or "", 0)
        if depth < 0:
            raise GoTemplateError("a parenthesis is closed that was not opened", line)
        found.append(_token(word, line))
        at = word.end()


def _token(word: re.Match[str], line: int) -> Token:
    text = word[0]
    match word.lastgroup:
        case "string":
            return Token(Kind.STRING, unescaped(text[1:-1], line), line)
        case "raw":
            return Token(Kind.STRING, text[1:-1].replace("\r", ""), line)
        case "character":
            character = unescaped(text[1:-1], line)
            if len(character) != 1:
                raise GoTemplateError(f"{text} is no character", line)
            return Token(Kind.NUMBER, ord(character), line)
        case "number":
            return Token(Kind.NUMBER, _number(text, line), line)
        case "name":
            if text in {"true", "false"}:
                return Token(Kind.BOOL, text == "true", line)
            return Token(Kind.KEYWORD if text in _KEYWORDS else Kind.NAME, text, line)
        case "field":
            return Token(Kind.FIELD, text[1:], line)
        case group:
            return Token(Kind[(group or "").upper()], text, line)


def _number(text: str, line: int) -> int | float:
    plain = text.replace("_", "")
    sign, digits = (-1, plain[1:]) if plain[0] == "-" else (1, plain.lstrip("+"))
    try:
        if digits[:2].lower() in {"0x", "0b", "0o"}:
            return sign * int(digits, 0)
        if digits.isdigit():
            return sign * int(digits, 8 if digits[0] == "0" and len(digits) > 1 else 10)
        return sign * float(digits)
    except ValueError:
        raise GoTemplateError(f"{text} is no number", line) from None


def unescaped(text: str, line: int) -> str:
    """Resolve the escapes of a quoted string, as Go's strconv.Unquote does. Raises GoTemplateError."""

    def one(found: re.Match[str]) -> str:
        escape = found[1]
        if escape[0] in "xuU" and len(escape) > 1:
            return chr(int(escape[1:], 16))
        if escape.isdigit() and len(escape) == 3:
            return chr(int(escape, 8))
        if escape not in _LETTERS:
            raise GoTemplateError(f"\\{escape} is no escape", line)
        return _LETTERS[escape]

    return _ESCAPE.sub(one, text)


def quoted(text: str) -> str:
    """Write a text as a string of a template, so that what does not print is an escape."""
    letters = {value: f"\\{key}" for key, value in _LETTERS.items() if key != "'"}
    parts = []
    for character in text:
        if character in letters:
            parts.append(letters[character])
        elif character == " " or character.isprintable():
            parts.append(character)
        else:
            parts.append(f"\\u{ord(character):04x}" if ord(character) < 1 << 16 else f"\\U{ord(character):08x}")
    return f'"{"".join(parts)}"'
