"""Applying a recipe: to the model that it was made for, or to another one of the same architecture, which is said."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ggufkit.counting import counted
from ggufkit.errors import InputError
from ggufkit.gguf_file.reader import GgufHeader
from ggufkit.gguf_file.tensor_types import TensorType
from ggufkit.quantization.options import QuantizeOptions
from ggufkit.quantization.overrides import beaten_by, decided
from ggufkit.quantization.recipe.extract import hash_file, layout_hash, matrices
from ggufkit.quantization.recipe.file import pattern
from ggufkit.quantization.recipe.recipe import Recipe
from ggufkit.quantization.types import TYPES, QuantizationType, find_type, quantization_type

_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Applied:
    """A recipe in the words of a quantization. `missing` are tensors that the model lacks, `extra` those it has more.

    An extra tensor gets what the preset `type` gives it. `notes` are for people.
    """

    type: QuantizationType
    options: QuantizeOptions
    missing: tuple[str, ...]
    extra: tuple[str, ...]
    notes: tuple[str, ...]


def apply(recipe: Recipe, headers: Sequence[GgufHeader], options: QuantizeOptions, *, weights: bool = True) -> Applied:
    """Turn a recipe into a preset and options for this model; what `options` say of single tensors comes first.

    With `weights`, the model's files are hashed where the recipe says for which weights it was made.

    Raises:
        InputError: the model is of another architecture, or has no tensor that the recipe names.
        UsageError: an option of `options` has no effect.
    """
    architecture = headers[0].metadata.get("general.architecture")
    if recipe.architecture not in {None, architecture}:
        raise InputError(
            f"the recipe is for models of architecture {recipe.architecture!r}, and {headers[0].path} is"
            f" {architecture!r}",
            hint="ggufkit inspect --recipe MODEL.gguf writes the recipe of another model",
        )
    there = [tensor.name for tensor in matrices(headers)]
    types = {name: recipe.tensors[name] for name in there if name in recipe.tensors}
    if not types:
        raise InputError(
            f"{headers[0].path} has none of {counted(len(recipe.tensors), 'tensor')} that the recipe names"
        )
    missing = tuple(name for name in recipe.tensors if name not in types)
    extra = tuple(name for name in there if name not in types)
    kind = _preset(recipe, types)
    chosen = options
    if kind.base.is_quantized:
        others = decided(there, kind, options)
        patterns = tuple(
            (pattern(name), tensor_type)
            for name, tensor_type in types.items()
            if name not in others and beaten_by(name, options) is None
        )
        chosen = replace(options, tensor_types=(*options.tensor_types, *patterns), pin=True)
    return Applied(
        kind, chosen, missing, extra, _notes(recipe, headers, missing, extra, kind, options, weights=weights)
    )


def _preset(recipe: Recipe, types: Mapping[str, TensorType]) -> QuantizationType:
    """Choose the label; llama-quantize heeds types of single tensors only together with a quantized one."""
    named = find_type(recipe.file_type) if recipe.file_type else None
    found = Counter(kind for kind in types.values()).most_common()
    quantized = [kind for kind, _ in found if kind.is_quantized]
    if named and named.base.is_quantized:
        return named
    if not quantized:
        return named or quantization_type(found[0][0].name)
    return next((kind for kind in TYPES if kind.base is quantized[0]), quantization_type("Q8_0"))


def _notes(
    recipe: Recipe,
    headers: Sequence[GgufHeader],
    missing: Sequence[str],
    extra: Sequence[str],
    kind: QuantizationType,
    options: QuantizeOptions,
    *,
    weights: bool,
) -> tuple[str, ...]:
    notes = []
    called = f" ({recipe.model_name})" if recipe.model_name else ""
    if recipe.layout_sha256 is not None and recipe.layout_sha256 != layout_hash(headers):
        notes.append(f"the recipe is from another model of this architecture{called}: what it promises may not hold")
    elif weights and recipe.model_sha256 is not None and recipe.model_sha256 != hash_file(h.path for h in headers):
        notes.append(f"the recipe is from a model of this shape with other weights{called}")
    if missing:
        notes.append(f"the model lacks {_listed(missing)} of the recipe")
    if extra:
        notes.append(f"the recipe does not name {_listed(extra)}: what {kind.name} gives them stays")
    if recipe.refined:
        notes.append("the recipe's figures are for refined weights; its types alone do not reach them")
    if recipe.equalized:
        notes.append(
            "the recipe's figures are for equalized weights (ggufkit optimize); its types alone may not reach them"
        )
    if recipe.scales_searched and not options.search_scales:
        notes.append("the recipe's figures are for scales that were searched for (--search-scales)")
    return tuple(notes)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{', '.join(names[:_SHOWN])}{more}"
