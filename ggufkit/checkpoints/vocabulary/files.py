"""The tokenizer files of a checkpoint folder, read and checked for shape; nothing in them is run."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeGuard

from ggufkit.checkpoints.folder import check_folder
from ggufkit.errors import CheckpointError

PRE_HINT = "--pre NAME if you know llama.cpp's name for how it cuts text"
CONVERTER_HINT = "try llama.cpp's own converter: --converter llama.cpp"
MOST_TOKENS = 1 << 24  # many times the largest vocabulary in use: what lies beyond is a damaged file


@dataclass(frozen=True, slots=True)
class Typed:
    """A metadata value whose GGUF type is not the one that its Python type stands for."""

    value: int
    kind: Literal["INT32"]


MetadataValue: TypeAlias = bool | int | float | str | bytes | list[str] | list[int] | list[float] | Typed


@dataclass(frozen=True, slots=True)
class AddedToken:
    """A token that is matched in the text before the vocabulary proper is applied."""

    id: int
    text: str
    special: bool
    normalized: bool


@dataclass(frozen=True, slots=True)
class TokenizerFiles:
    """What the folder holds: a file that is not there is None."""

    folder: Path
    tokenizer: dict[str, Any] | None
    tokenizer_config: dict[str, Any] | None
    added_tokens: dict[str, int] | None

    @classmethod
    def read(cls, folder: Path) -> "TokenizerFiles":
        """Read tokenizer.json, tokenizer_config.json and added_tokens.json.

        Raises:
            CheckpointError: one of them is not JSON, or not an object.
            UnsafeError: a file of the folder is a link that leads out of it.
        """
        check_folder(folder)
        return cls(
            folder,
            read_json_object(folder / "tokenizer.json"),
            read_json_object(folder / "tokenizer_config.json"),
            _read_added_tokens(folder / "added_tokens.json"),
        )

    @property
    def sentencepiece_model(self) -> Path | None:
        """Where the SentencePiece model is, if the folder has one: it has several names."""
        paths = (self.folder / name for name in ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model"))
        return next((path for path in paths if path.is_file()), None)

    @property
    def model(self) -> dict[str, Any]:
        """The `model` of tokenizer.json; empty when there is no such file. Raises CheckpointError when malformed."""
        model = (self.tokenizer or {}).get("model", {})
        if not isinstance(model, dict):
            raise CheckpointError(f"{self.folder / 'tokenizer.json'}: `model` is not an object")
        return model

    def tokenizer_added_tokens(self) -> list[AddedToken]:
        """List the `added_tokens` of tokenizer.json. Raises CheckpointError when malformed."""
        path = self.folder / "tokenizer.json"
        entries = (self.tokenizer or {}).get("added_tokens") or []
        if not isinstance(entries, list):
            raise CheckpointError(f"{path}: `added_tokens` is not a list")
        objects = (_object(path, "added_tokens", entry) for entry in entries)
        return [_added_token(path, entry.get("id"), entry) for entry in objects]

    def config_added_tokens(self) -> list[AddedToken]:
        """List the `added_tokens_decoder` of tokenizer_config.json. Raises CheckpointError when malformed."""
        path = self.folder / "tokenizer_config.json"
        entries = (self.tokenizer_config or {}).get("added_tokens_decoder") or {}
        if not isinstance(entries, dict):
            raise CheckpointError(f"{path}: `added_tokens_decoder` is not an object")
        objects = ((_as_id(key), _object(path, "added_tokens_decoder", entry)) for key, entry in entries.items())
        return [_added_token(path, token_id, entry) for token_id, entry in objects]


def read_json_object(path: Path) -> dict[str, Any] | None:
    """Read a JSON object; None when there is no such file.

    Raises:
        CheckpointError: the file is not JSON, or not an object.
    """
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: not valid JSON: {error}") from error
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected a JSON object, found {_kind(content)}")
    return content


def read_text(path: Path) -> str:
    """Read a text file. Raises CheckpointError when it is not UTF-8."""
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path}: not valid UTF-8: {error}") from error
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from error


def checked_text(path: Path, name: str, text: str) -> str:
    """Refuse half a surrogate pair, which JSON can hold and UTF-8 cannot. Raises CheckpointError."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise CheckpointError(f"{path}: {name!r} is not valid Unicode: {error.reason}") from error
    return text


def flat_stages(part: object, members: str) -> Iterator[Mapping[str, Any]]:
    """Walk in order through a normalizer or pre-tokenizer, whose sequences nest under the key `members`."""
    if not isinstance(part, dict):
        return
    inner = part.get(members)
    if part.get("type") == "Sequence" and isinstance(inner, list):
        for member in inner:
            yield from flat_stages(member, members)
    else:
        yield part


def is_token_id(value: object) -> TypeGuard[int]:
    """Tell whether a JSON value is an integer; true and false are not."""
    return isinstance(value, int) and not isinstance(value, bool)


def _read_added_tokens(path: Path) -> dict[str, int] | None:
    content = read_json_object(path)
    for text, token_id in (content or {}).items():
        if not is_token_id(token_id) or token_id < 0:
            raise CheckpointError(f"{path}: the id of token {text!r} is {token_id!r}, expected a number from 0 up")
    return content


def _added_token(path: Path, token_id: object, entry: dict[str, Any]) -> AddedToken:
    text = entry.get("content")
    if not isinstance(text, str) or not isinstance(token_id, int) or isinstance(token_id, bool) or token_id < 0:
        raise CheckpointError(f"{path}: an added token needs a text and an id from 0 up, found {text!r}: {token_id!r}")
    return AddedToken(token_id, text, bool(entry.get("special")), bool(entry.get("normalized", True)))


def _object(path: Path, name: str, entry: object) -> dict[str, Any]:
    if not isinstance(entry, dict):
        raise CheckpointError(f"{path}: an entry of `{name}` is not an object: {entry!r}")
    return entry


def _as_id(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() else None


def _kind(content: object) -> str:
    return {list: "an array", str: "a string", type(None): "null"}.get(type(content), type(content).__name__)
