r"""Recipes as files: text that `llama-quantize --tensor-type-file` takes as it is, or the same as JSON.

llama-quantize reads words parted by white space, each a regular expression and a type (tools/quantize/quantize.cpp):

    ^#ggufkit-recipe:1$=f32
    ^#architecture:llama$=f32
    ^blk\.0\.attn_q\.weight$=iq4_xs

A word that begins with ^# matches no tensor: it holds a fact about the recipe, with `%` and two digits for characters
that mean something. Names are anchored, and characters that are neither letters, digits nor `_` are written `\.` or
`\x2d`; so are capital letters, because llama-quantize makes patterns lower case.
"""

import json
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from ggufkit.errors import InputError, UsageError
from ggufkit.gguf_file.tensor_types import TensorType
from ggufkit.quantization.recipe.extract import recipe_of
from ggufkit.quantization.recipe.recipe import SCHEMA_VERSION, Recipe, RecipeText, Role
from ggufkit.quantization.types import tensor_type

_LARGEST_FILE = 32 << 20  # bytes; a model of ten thousand tensors takes one
_MARK = "ggufkit-recipe"
_STRINGS = ("architecture", "file_type", "model_name", "made_by")
_HASHES = ("model_sha256", "layout_sha256", "imatrix_sha256")
_COUNTS = ("budget_bytes", "file_bytes")
_DIVERGENCES = ("predicted_kld", "measured_kld", "measured_kld_999")
_SWITCHES = ("refined", "equalized", "scales_searched")
_FACTS = (*_STRINGS, *_HASHES, *_COUNTS, *_DIVERGENCES, "measured_on", *_SWITCHES)
_HEXADECIMAL = re.compile(r"[0-9a-f]{64}")
_FACT = re.compile(r"\^#([\w-]+):([^$]*)\$=f32", re.IGNORECASE)
_TENSOR = re.compile(r"\^((?:[a-z0-9_]|\\x[0-9a-f]{2}|\\[^\w\s])+)\$=(\w+)", re.IGNORECASE)
_ESCAPED = re.compile(r"\\x([0-9a-fA-F]{2})|\\(.)")
_SHOWN = 60


def text(recipe: Recipe) -> str:
    """Write a recipe as llama-quantize takes it.

    Raises:
        InputError: a tensor's name is not ASCII.
    """
    facts = [(_MARK, str(SCHEMA_VERSION)), *((name, str(value)) for name, value in _facts(recipe))]
    lines = [f"^#{name}:{quote(value, safe='')}$=f32" for name, value in facts]
    lines += [f"^#text:{part.role}:{quote(part.name, safe='')}:{part.sha256}$=f32" for part in recipe.texts]
    lines += [f"{pattern(name)}={kind.name.lower()}" for name, kind in recipe.tensors.items()]
    return "\n".join(lines) + "\n"


def pattern(name: str) -> str:
    """Write the regular expression that is found in this tensor's name only.

    Raises:
        InputError: the name is not ASCII.
    """
    if not name.isascii():
        raise InputError(f"the tensor name {name!r} is not ASCII, and llama-quantize compares bytes")
    return f"^{''.join(_escaped(character) for character in name)}$"


def to_json(recipe: Recipe) -> dict[str, Any]:
    """Give a recipe as a document; `read` takes it too."""
    return {
        "schema_version": SCHEMA_VERSION,
        **dict(_facts(recipe)),
        "texts": [{"role": str(part.role), "name": part.name, "sha256": part.sha256} for part in recipe.texts],
        "tensors": {name: kind.name for name, kind in recipe.tensors.items()},
    }


def read(path: Path) -> Recipe:
    """Read a recipe: text, JSON, or a GGUF model whose types are taken over.

    Raises:
        InputError: it cannot be read, or is no recipe; the message names the word.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST_FILE + 1)
    except OSError as error:
        raise InputError(f"cannot read the recipe {path}: {error.strerror}") from None
    if content.startswith(b"GGUF"):
        return recipe_of(path)
    if len(content) > _LARGEST_FILE:
        raise InputError(f"{path} is no recipe: it is larger than {_LARGEST_FILE >> 20} MiB")
    try:
        return parse(content.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise InputError(f"{path} is no recipe: it is not text") from None
    except (InputError, UsageError) as error:
        raise InputError(
            f"{path} is no recipe: {error}", hint="ggufkit inspect --recipe MODEL.gguf writes one of any model"
        ) from None


def parse(content: str) -> Recipe:
    """Read the text of a recipe, of either form.

    Raises:
        InputError: it is none.
    """
    if content.lstrip().startswith("{"):
        try:
            document = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise InputError(f"not valid JSON: {error}") from None
        return _from_document(document)
    facts: dict[str, Any] = {}
    texts: list[dict[str, str]] = []
    tensors: list[tuple[str, str]] = []
    for word in content.split():
        if fact := _FACT.fullmatch(word):
            name, value = fact[1].lower(), fact[2]
            if name == "text":
                role, _, rest = value.partition(":")
                called, _, digest = rest.rpartition(":")
                texts.append({"role": role, "name": unquote(called), "sha256": digest})
            elif name in facts:
                raise InputError(f"{name!r} is said twice")
            else:
                facts[name] = unquote(value)
        elif found := _TENSOR.fullmatch(word):
            tensors.append((_name(found[1]), found[2]))
        else:
            raise InputError(
                f"{word[:_SHOWN]!r} is not of the form ^NAME$=TYPE, with every character of the name that means"
                " something escaped"
            )
    if (version := facts.pop(_MARK, None)) is not None:
        facts["schema_version"] = _number(version, int)
    for name in _COUNTS:
        facts[name] = _number(facts.get(name), int)
    for name in _DIVERGENCES:
        facts[name] = _number(facts.get(name), float)
    for name in facts.keys() & set(_SWITCHES):
        facts[name] = {"True": True, "False": False}.get(facts[name], facts[name])
    return _recipe(facts, texts, tensors)


def _facts(recipe: Recipe) -> Iterable[tuple[str, Any]]:
    for name in _FACTS:
        if (value := getattr(recipe, name)) is not None:
            yield name, str(value) if isinstance(value, Role) else value


def _escaped(character: str) -> str:
    if character.isdigit() or character == "_" or (character.isalpha() and character.islower()):
        return character
    return rf"\{character}" if character == "." else rf"\x{ord(character):02x}"


def _name(escaped: str) -> str:
    return _ESCAPED.sub(lambda found: chr(int(found[1], 16)) if found[1] else found[2], escaped)


def _number(value: str | None, kind: type[int] | type[float]) -> Any:
    if value is None:
        return None
    try:
        return kind(value)
    except ValueError:
        raise InputError(f"{value[:_SHOWN]!r} is no number") from None


def _from_document(document: Any) -> Recipe:
    tensors = document.get("tensors")
    texts = document.get("texts", [])
    if not isinstance(tensors, dict) or "schema_version" not in document or not isinstance(texts, list):
        raise InputError("it has no 'schema_version', or no 'tensors' by name")
    pairs = list(tensors.items())
    if (wrong := next((name for name, kind in pairs if not isinstance(kind, str)), None)) is not None:
        raise InputError(f"the type of {wrong[:_SHOWN]!r} is no string")
    return _recipe(document, texts, pairs)


def _recipe(facts: Mapping[str, Any], texts: Iterable[Any], tensors: Iterable[tuple[str, str]]) -> Recipe:
    """Check what both forms share."""
    version = facts.get("schema_version", SCHEMA_VERSION)
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise InputError(f"its version is {version!r}")
    if version > SCHEMA_VERSION:
        raise InputError(f"its version is {version}, and this ggufkit knows {SCHEMA_VERSION}; take a newer one")
    types: dict[str, TensorType] = {}
    for name, kind in tensors:
        if name in types:
            raise InputError(f"tensor {name[:_SHOWN]!r} is named twice")
        types[name] = tensor_type(kind)
    if not types:
        raise InputError("it names no tensor")
    known = {name: facts[name] for name in _FACTS if facts.get(name) is not None}
    for name, value in known.items():
        _check(name, value)
    if "measured_on" in known:
        known["measured_on"] = Role(known["measured_on"])
    return Recipe(tensors=types, texts=tuple(_text(part) for part in texts), **known)


def _check(name: str, value: Any) -> None:
    """Refuse facts of another kind than they must be."""
    if name in _COUNTS:
        good = isinstance(value, int) and not isinstance(value, bool) and value >= 0
    elif name in _DIVERGENCES:
        good = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    elif name in _SWITCHES:
        good = isinstance(value, bool)
    elif name == "measured_on":
        good = value in list(Role)
    else:
        good = isinstance(value, str) and (name not in _HASHES or _HEXADECIMAL.fullmatch(value) is not None)
    if not good:
        raise InputError(f"{name!r} is {str(value)[:_SHOWN]!r}")


def _text(part: Any) -> RecipeText:
    said = part if isinstance(part, dict) else {}
    role, name, digest = (said.get(key) for key in ("role", "name", "sha256"))
    if role not in list(Role) or not isinstance(name, str) or not _HEXADECIMAL.fullmatch(str(digest)):
        raise InputError(f"a text is {str(part)[:_SHOWN]!r}, expected its role, name and SHA-256")
    return RecipeText(Role(role), name, str(digest))
