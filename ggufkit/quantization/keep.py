"""Mixed precision in the words of Hugging Face: `lm_head,embed_tokens,norm=f16`, said of a GGUF file's tensors.

A word is a part of a module's path, such as `lm_head`, `mlp.down_proj`, `self_attn`, `experts` or
`model.layers.3.mlp.down_proj`. The number of a block may be a range (`layers.0-3`, `layers.28-`) or count from the end
(`layers.-1`), and each part may have wildcards (`*_proj`). GGUF's own names (`blk.3.ffn_down`, `attn_v`) are taken too.
"""

import difflib
import fnmatch
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ggufkit.errors import UsageError
from ggufkit.gguf_file.tensor_types import TensorType
from ggufkit.quantization.modules import ANY, known_modules, module_of
from ggufkit.quantization.source import blocks_of
from ggufkit.quantization.types import tensor_type

_NUMBERS = re.compile(r"(?P<first>-?\d+)?(?P<range>-)?(?P<last>\d+)?")
_OUTPUT, _EMBEDDINGS = "output.weight", "token_embd.weight"
_PLACES = {"model", "language_model", "text_model", "transformer", "gpt_neox", "backbone", "base_model"}
_HEADS = {"lm_head", "output", "embed_out"}


@dataclass(frozen=True, slots=True)
class Kept:
    """What the words come to: a type for each tensor (None: the one that it has), and what is to be told about it."""

    types: Mapping[str, TensorType | None]
    notes: tuple[str, ...]


def parse_keep(text: str) -> tuple[tuple[str, TensorType | None], ...]:
    """Read `word,word=type`; without a type the tensors stay as they are.

    Raises:
        UsageError: it is not of that form, or there is no such tensor type.
    """
    words, equals, name = text.partition("=")
    parts = [word.strip() for word in words.split(",")]
    if not all(parts) or (equals and not name.strip()):
        raise UsageError(
            f"--keep {text!r} is not of the form NAME[,NAME...]=TYPE", hint="such as --keep lm_head,embed_tokens=f16"
        )
    kept = tensor_type(name) if equals else None
    return tuple((module_of(word), kept) for word in parts)


def tensors_to_keep(
    words: Sequence[tuple[str, TensorType | None]],
    names: Sequence[str],
    architecture: str,
    modules: Mapping[str, tuple[str, ...]] | None = None,
) -> Kept:
    """Find the tensors that the words mean; of two words that mean the same one, the first counts.

    `names` are those of all tensors. `modules` maps the tensors of a checkpoint to those that they became.

    Raises:
        UsageError: a word means nothing here, or only a part of what is one tensor.
    """
    exact = modules is not None
    modules = known_modules(names, architecture) if modules is None else modules
    types: dict[str, TensorType | None] = {}
    reached: dict[str, set[str]] = {}
    notes: list[str] = []
    blocks = max(blocks_of(names), default=-1) + 1
    for word, wanted in words:
        found, sources = _meant(word, names, modules, blocks)
        if not found:
            found, sources = _meant(_without_place(word), names, modules, blocks)
        if not found and word in _HEADS and _OUTPUT not in names and _EMBEDDINGS in names:
            found = [_EMBEDDINGS]
            notes.append(f"{word} is tied to the embeddings: {_EMBEDDINGS} is the output layer too, and is kept")
        if not found:
            raise _unknown(word, names, modules, blocks)
        for name in found:
            types.setdefault(name, wanted)
        for name, parts in sources.items():
            reached.setdefault(name, set()).update(parts)
    if exact:
        _refuse_parts(reached, modules)
    return Kept(types, tuple(notes))


def _meant(
    word: str, names: Sequence[str], modules: Mapping[str, tuple[str, ...]], blocks: int
) -> tuple[list[str], dict[str, set[str]]]:
    """Return the tensors that a word means, and of those that it names by their sources, which sources."""
    pattern = word.split(".")
    whole = [name for name in names if module_of(name) == word or name == word]
    if whole:
        return whole, {}
    sources: dict[str, set[str]] = {}
    for module, targets in modules.items():
        if _contains(module_of(module).split("."), pattern, blocks):
            for target in targets:
                sources.setdefault(target, set()).add(module)
    if sources:
        order = {name: place for place, name in enumerate(names)}
        return sorted((name for name in sources if name in order), key=order.__getitem__), sources
    return [name for name in names if _contains(module_of(name).split("."), pattern, blocks)], {}


def _without_place(word: str) -> str:
    """Drop the parts of a path that only say where the model sits: some tables have them, and some do not."""
    parts = word.split(".")
    while len(parts) > 1 and parts[0] in _PLACES:
        parts = parts[1:]
    return ".".join(parts)


def _contains(path: Sequence[str], pattern: Sequence[str], blocks: int) -> bool:
    """Whether a run of the path's parts fits the pattern, part for part."""
    starts = range(len(path) - len(pattern) + 1)
    return any(all(_fits(path[start + i], part, blocks) for i, part in enumerate(pattern)) for start in starts)


def _fits(part: str, pattern: str, blocks: int) -> bool:
    if part == ANY:
        return pattern == ANY
    if not part.isdigit():
        return fnmatch.fnmatchcase(part, pattern)
    if pattern == ANY:
        return True
    found = _NUMBERS.fullmatch(pattern)
    if not found or (found["first"] is None and found["last"] is None):
        return False
    first = int(found["first"] or 0)
    first += blocks if first < 0 else 0
    last = int(found["last"]) if found["last"] else blocks if found["range"] else first
    return first <= int(part) <= last


def _refuse_parts(reached: Mapping[str, set[str]], modules: Mapping[str, tuple[str, ...]]) -> None:
    """Refuse half of a tensor that was put together from several, such as one expert of many."""
    made_of: dict[str, set[str]] = {}
    for module, targets in modules.items():
        for target in targets:
            made_of.setdefault(target, set()).add(module)
    for name, parts in reached.items():
        if others := made_of[name] - parts:
            raise UsageError(
                f"--keep: {name} is made of {len(made_of[name])} tensors of the checkpoint and has one type for all:"
                f" {min(parts)} is meant, {min(others)} is not",
                hint="name all of them, such as `experts` for every expert",
            )


def _unknown(word: str, names: Sequence[str], modules: Mapping[str, tuple[str, ...]], blocks: int) -> UsageError:
    for part in word.split("."):
        # With any number in place of its own the word would mean something: it is the number that is wrong.
        if _NUMBERS.fullmatch(part) and part and _meant(word.replace(part, ANY, 1), names, modules, blocks)[0]:
            return UsageError(
                f"--keep {word}: this model has no block {part}", hint=f"its blocks are 0 to {blocks - 1}"
            )
    parts = {part for module in modules for part in module_of(module).split(".") if not part.isdigit()}
    parts |= {part for name in names for part in module_of(name).split(".") if not part.isdigit()}
    last = word.split(".")[-1]
    near = difflib.get_close_matches(last, sorted(parts - {ANY}), n=3, cutoff=0.6)
    return UsageError(
        f"--keep: no module of this model is called {word!r}",
        hint=f"did you mean {' or '.join(near)}?" if near else f"some are {', '.join(sorted(parts - {ANY})[:8])}",
    )
