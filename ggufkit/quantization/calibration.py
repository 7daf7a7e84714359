"""Texts to calibrate with: any mix of prose, markdown, code and chats, cut into passages, sifted and shuffled.

The activations that an importance matrix counts should be those of the model's later work, so the text should be of its
kind: chats in the model's own template for a chat model, code for one that writes code. Passages of all kinds are
mixed evenly, so that the first chunks hold as much of everything as the last ones.
"""

import hashlib
import json
import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from ggufkit.errors import InputError

Messages: TypeAlias = list[dict[str, str]]
Render: TypeAlias = Callable[[Messages], str]
"""Writes a conversation as the model was trained to see it; messages have `role` and `content`."""

SHORTEST = 40  # characters
_LONGEST = 8000  # characters; a longer passage is cut at line ends, so that it mixes with the others
_LARGEST_FILE = 1 << 30
_CHATS = {".jsonl", ".ndjson", ".json"}
_MARKDOWN = {".md", ".markdown", ".mdx", ".rst"}
_CODE_SUFFIXES = (
    ".py .pyi .js .jsx .ts .tsx .java .kt .scala .c .h .cc .cpp .cxx .hpp .cu .m .swift .go .rs .rb .php .pl .lua .sh"
    " .bash .zsh .ps1 .sql .r .jl .hs .ml .ex .exs .erl .clj .lisp .dart .zig .nim .cs .fs .vb .html .css .scss .xml"
    " .yaml .yml .toml .ini .cmake"
)
_CODE = set(_CODE_SUFFIXES.split())
_TEXT = {".txt", ".text", ".raw", ""}
_ROLES = {"human": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant", "chatbot": "assistant"}
_PAIRS = (
    ("prompt", "response"),
    ("prompt", "completion"),
    ("question", "answer"),
    ("query", "response"),
    ("input", "output"),
    ("prompt", "chosen"),
    ("prompt", "answer"),
)
_FENCE = re.compile(r"^(```|~~~)")
_BLANK = re.compile(r"\n[ \t]*\n\s*")

TOO_SHORT = "give more text with -f, or --self to let the model write its own"


@dataclass(frozen=True, slots=True)
class Passages:
    """What was found: the passages in the order of the files, how many of them are chats, and what was left out."""

    texts: tuple[str, ...]
    chats: int
    short: int
    repeated: int

    @property
    def characters(self) -> int:
        """The length of all passages together."""
        return sum(len(text) for text in self.texts)


def read_passages(paths: Sequence[Path], render: Render | None = None, *, shortest: int = SHORTEST) -> Passages:
    """Read files, and all readable files in folders; drop short and repeated passages.

    Without `render`, the turns of a chat follow each other with a blank line between them.

    Raises:
        InputError: a file cannot be read, or nothing is left.
    """
    texts: list[str] = []
    seen: set[bytes] = set()
    chats = short = repeated = 0
    for path in paths:
        for file in _files(path):
            for text, is_chat in _passages(file, render):
                if len(text.strip()) < shortest:
                    short += 1
                    continue
                key = hashlib.sha256(" ".join(text.split()).casefold().encode("utf-8", "replace")).digest()
                if key in seen:
                    repeated += 1
                    continue
                seen.add(key)
                texts.append(text)
                chats += is_chat
    if not texts:
        raise InputError(
            f"no passage of at least {shortest} characters in {', '.join(map(str, paths))}",
            hint=TOO_SHORT,
        )
    return Passages(tuple(texts), chats, short, repeated)


def compose(passages: Iterable[str], *, seed: int, tokens: int | None, count_tokens: Callable[[str], int]) -> str:
    """Shuffle the passages and join them until there are `tokens` of them (None: all), as far as they go.

    The same seed gives the same text for the same passages in whatever order they come.
    """
    order = sorted(passages)
    random.Random(seed).shuffle(order)  # noqa: S311 - an order, not a secret
    chosen: list[str] = []
    enough = 0
    for text in order:
        if tokens is not None and enough >= tokens:
            break
        chosen.append(text.strip("\n"))
        enough += count_tokens(text) + 1 if tokens is not None else 0
    return "\n\n".join(chosen) + "\n"


def _files(path: Path) -> Iterator[Path]:
    if path.is_dir():
        known = _CHATS | _MARKDOWN | _CODE | _TEXT
        found = [file for file in sorted(path.rglob("*")) if file.is_file() and file.suffix.lower() in known]
        if not found:
            raise InputError(f"no text, markdown, chats or code in {path}")
        yield from found
    elif not path.is_file():
        raise InputError(f"no such file or folder: {path}")
    else:
        yield path


def _passages(path: Path, render: Render | None) -> Iterator[tuple[str, bool]]:
    """Yield (passage, whether it is a chat)."""
    if path.stat().st_size > _LARGEST_FILE:
        raise InputError(f"{path} is larger than a gigabyte; a few megabytes are more than enough")
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path} as UTF-8 text: {error}") from None
    if "\0" in text:
        raise InputError(f"{path} is no text: it holds a zero byte")
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    suffix = path.suffix.lower()
    if suffix in _CHATS:
        yield from _chats(path, text, render)
        return
    split = split_markdown if suffix in _MARKDOWN else split_code if suffix in _CODE else split_text
    for passage in split(text):
        yield from ((piece, False) for piece in _shortened(passage))


def split_text(text: str) -> Iterator[str]:
    """Split prose at blank lines."""
    yield from _BLANK.split(text.strip())


def split_markdown(text: str) -> Iterator[str]:
    """Split markdown at blank lines; a heading stays with what follows, a block of code stays whole."""
    lines: list[str] = []
    fence = ""
    for line in [*text.split("\n"), ""]:
        if found := _FENCE.match(line.lstrip()):
            fence = "" if fence == found[1] else fence or found[1]
        if line.strip() or fence:
            lines.append(line)
        elif lines and not (lines[-1].startswith("#") and len(lines) == 1):
            yield "\n".join(lines)
            lines = []
        elif lines:
            lines.append(line)
    if lines:
        yield "\n".join(lines)


def split_code(text: str) -> Iterator[str]:
    """Split code where, after a blank line, a line begins without indentation: between functions and classes."""
    lines: list[str] = []
    after_blank = False
    for line in text.split("\n"):
        starts = bool(line) and not line[0].isspace() and line[0] not in "})]"
        if after_blank and starts and sum(len(part) for part in lines) >= SHORTEST:
            yield "\n".join(lines).strip("\n")
            lines = []
        lines.append(line)
        after_blank = not line.strip()
    yield "\n".join(lines).strip("\n")


def _shortened(passage: str) -> Iterator[str]:
    while len(passage) > _LONGEST:
        end = passage.rfind("\n", 1, _LONGEST)
        end = end if end > 0 else max(passage.rfind(" ", 1, _LONGEST), _LONGEST // 2)
        yield passage[:end]
        passage = passage[end:].lstrip("\n")
    yield passage


def _chats(path: Path, text: str, render: Render | None) -> Iterator[tuple[str, bool]]:
    for number, document in _documents(path, text):
        messages = conversation(document)
        if messages is not None:
            rendered = render(messages) if render else "\n\n".join(message["content"] for message in messages)
            yield rendered, render is not None
        elif isinstance(document, Mapping) and isinstance(plain := document.get("text"), str):
            yield from ((piece, False) for piece in _shortened(plain))
        elif isinstance(document, str):
            yield from ((piece, False) for piece in _shortened(document))
        else:
            raise InputError(
                f"{path}:{number}: neither a chat nor a text",
                hint='such as {"messages": [{"role": "user", "content": "…"}, …]} or {"text": "…"}',
            )


def _documents(path: Path, text: str) -> Iterator[tuple[int, Any]]:
    """Yield (line, value): one value a line, or the elements of one array."""
    if path.suffix.lower() == ".json":
        try:
            whole = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path} is not valid JSON: {error}") from None
        yield from enumerate(whole if isinstance(whole, list) else [whole], start=1)
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError) as error:
                raise InputError(f"{path}:{number} is not valid JSON: {error}") from None


def conversation(document: Any) -> Messages | None:
    """Read a conversation in one of the usual forms; None where it is none.

    They are OpenAI's (`messages` of `role` and `content`), ShareGPT's (`conversations` of `from` and `value`), Alpaca's
    (`instruction`, `input`, `output`) and pairs such as `prompt` and `response`.
    """
    if isinstance(document, list):
        return _turns(document)
    if not isinstance(document, Mapping):
        return None
    for key in ("messages", "conversations", "conversation", "chat", "dialog"):
        if isinstance(turns := document.get(key), list):
            return _turns(turns)
    texts = {key: value for key, value in document.items() if isinstance(value, str)}
    if "instruction" in texts and "output" in texts:
        more = texts.get("input", "")
        return _pair(f"{texts['instruction']}\n\n{more}" if more.strip() else texts["instruction"], texts["output"])
    return next((_pair(texts[ask], texts[reply]) for ask, reply in _PAIRS if ask in texts and reply in texts), None)


def _pair(question: str, reply: str) -> Messages:
    return [{"role": "user", "content": question}, {"role": "assistant", "content": reply}]


def _turns(turns: list[Any]) -> Messages | None:
    messages: Messages = []
    for turn in turns:
        if not isinstance(turn, Mapping):
            return None
        role, content = turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))
        if isinstance(content, list):  # parts of which some are images
            parts = [part.get("text") for part in content if isinstance(part, Mapping)]
            content = "\n".join(part for part in parts if isinstance(part, str))
        if not isinstance(role, str) or not isinstance(content, str):
            return None
        messages.append({"role": _ROLES.get(role.lower(), role.lower()), "content": content})
    return messages or None
