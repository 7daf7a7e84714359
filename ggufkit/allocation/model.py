"""The model whose types are chosen: its tensors that may change, what presets make of it, and exact sizes of files."""

import contextlib
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from ggufkit.allocation.choices import USUAL_POOL, Choices, Types, choices_of, pool_named
from ggufkit.allocation.knapsack import Item, largest, smallest
from ggufkit.allocation.lattices import on_lattice
from ggufkit.allocation.sensitivity import Costs
from ggufkit.allocation.targets import Measure, Target
from ggufkit.errors import GgufkitError, InputError, UsageError
from ggufkit.gguf_file.reader import GgufHeader
from ggufkit.gguf_file.tensor_types import TensorType
from ggufkit.quantization.matrix_fit import chosen
from ggufkit.quantization.options import QuantizeOptions
from ggufkit.quantization.overrides import pinned
from ggufkit.quantization.plan import QuantizationPlan, plan, read_model
from ggufkit.quantization.types import QuantizationType, quantization_type

# What people download; the smallest first. They label files, and the largest that fits is always a candidate.
PRESETS = [
    "IQ2_XXS",
    "IQ2_XS",
    "IQ2_S",
    "IQ2_M",
    "Q2_K_S",
    "Q2_K",
    "IQ3_XXS",
    "IQ3_XS",
    "Q3_K_S",
    "IQ3_S",
    "IQ3_M",
    "Q3_K_M",
    "Q3_K_L",
    "IQ4_XS",
    "Q4_K_S",
    "IQ4_NL",
    "Q4_K_M",
    "Q5_K_S",
    "Q5_K_M",
    "Q6_K",
    "Q8_0",
]
_UNMOVED = "no tensor of this model can be quantized"


@dataclass(frozen=True, slots=True)
class Model:
    """A model in F16, BF16 or F32, and what may become of it. Sizes are those of whole files, in bytes.

    `presets` has the plan of every preset that can be made. `fixed_bytes` is what a file of ours takes without the
    tensors that may change: header, padding, vectors and what else stays. `on_lattice` names tensors that training has
    left on a 4-bit lattice, which Q4_0 stores as they are. `pool` is what the types were called that tensors may have.
    `equalized` names what was scaled in it; it is empty where the weights are the checkpoint's.
    """

    headers: tuple[GgufHeader, ...]
    options: QuantizeOptions
    choices: tuple[Choices, ...]
    presets: Mapping[str, QuantizationPlan]
    fixed_bytes: int
    on_lattice: frozenset[str] = frozenset()
    pool: str = USUAL_POOL
    equalized: str = ""

    @property
    def improved_by(self) -> str:
        """What makes files better than everybody's of the same types, in words; empty where nothing does."""
        return "equalized" if self.equalized else "scales searched" if self.options.search_scales else ""

    @property
    def source(self) -> Path:
        """The first file."""
        return self.headers[0].path

    @property
    def weights(self) -> int:
        """The number of weights in all tensors."""
        return sum(header.elements for header in self.headers)

    @property
    def is_tied(self) -> bool:
        """Whether the embeddings are the output layer too."""
        return not any(tensor.name == "output.weight" for header in self.headers for tensor in header.tensors)

    @property
    def bytes(self) -> int:
        """The bytes of the model as it is."""
        return sum(header.file_size for header in self.headers)

    @property
    def overhead_bytes(self) -> int:
        """What a file has besides tensors: header, vocabulary, padding."""
        moving = sum(choice.bytes_as(choice.types[-1]) for choice in self.choices)
        return self.fixed_bytes - (sum(header.tensor_bytes for header in self.headers) - moving)

    @property
    def smallest_bytes(self) -> int:
        """The bytes of the smallest file with types of the pool."""
        return self.fixed_bytes + smallest(self.items(self._nothing))

    @property
    def _nothing(self) -> Costs:
        return {choice.name: dict.fromkeys(choice.types, 0.0) for choice in self.choices}

    def bits_per_weight(self, size: int) -> float:
        """The bits of all tensors per weight in a file of `size` bytes, as `ggufkit quantize` and `inspect` say it."""
        return 8 * max(0, size - self.overhead_bytes) / self.weights

    def size_of(self, types: Types) -> int:
        """The bytes of a file with these types."""
        return self.fixed_bytes + sum(choice.bytes_as(types[choice.name]) for choice in self.choices)

    def preset_types(self, name: str) -> Types:
        """Return the types that a preset gives to the tensors that may change."""
        given = {tensor.name: tensor.to for tensor in self.presets[name].tensors}
        return {choice.name: given[choice.name] for choice in self.choices}

    def items(self, costs: Costs) -> list[Item]:
        """Spell the choices for the knapsack, in their order."""
        return [
            Item(
                tuple(choice.bytes_as(kind) for kind in choice.types),
                tuple(costs[choice.name][kind] for kind in choice.types),
            )
            for choice in self.choices
        ]

    def types_of(self, options: Sequence[int]) -> dict[str, TensorType]:
        """Translate what the knapsack picked."""
        return {choice.name: choice.types[option] for choice, option in zip(self.choices, options, strict=True)}

    def budget(self, target: Target) -> int:
        """Return the bytes that a target allows.

        Raises:
            UsageError: no file of this model is so small, or all are smaller; the smallest and largest are named.
        """
        preset = target.preset if target.measure is Measure.LIKE else None
        if preset is not None and preset.name not in self.presets:
            plan(self.source, preset, self.options)  # raises, saying why
        least, most = self.smallest_bytes, self.fixed_bytes + largest(self.items(self._nothing))
        wanted = int(target.value)
        if preset is not None:
            wanted = self.presets[preset.name].bytes_after
            most = max(most, wanted)
            if self.pool == USUAL_POOL:
                least = min(least, wanted)  # it may be smaller than all others: then it is made itself
        if target.measure is Measure.BITS_PER_WEIGHT:
            wanted = self.overhead_bytes + int(target.value * self.weights / 8)
        if not least <= wanted <= most:
            low, high = map(self.bits_per_weight, (least, most))
            raise UsageError(
                f"{target.said} ({wanted:,} bytes) cannot be reached: with this pool of types the smallest file has"
                f" {least:,} bytes ({low:.2f} bits per weight), the largest {most:,} ({high:.2f})",
                hint="--pool names smaller types"
                if wanted < least
                else "the source itself is the largest that there is",
            )
        return wanted

    def room(self, budget: int, target: Target) -> int:
        """Return the bytes that chosen types may take: no more than the preset has without a matrix, or unnamed.

        Who compares the file with a preset may have made that one without a matrix, or from a shorter path.
        """
        if target.measure is not Measure.LIKE or target.preset is None:
            return budget
        sizes = [budget, self.presets[target.preset.name].bytes_unnamed]
        without = replace(self.options, imatrix=None, include_weights=(), exclude_weights=())
        with contextlib.suppress(UsageError):  # it is not made without
            sizes.append(plan(self.source, target.preset, without, headers=self.headers).bytes_after)
        return min(sizes)

    def label(self, budget: int, target: Target) -> QuantizationType:
        """Choose what `general.file_type` says: the preset that is meant, else the largest that is no larger."""
        if target.preset is not None:
            return target.preset
        return quantization_type(self.largest_preset(budget) or "Q2_K")

    def largest_preset(self, budget: int) -> str | None:
        """Name the largest preset within a budget, None where all are larger."""
        fitting = [
            (planned.bytes_after, name) for name, planned in self.presets.items() if planned.bytes_after <= budget
        ]
        return max(fitting)[1] if fitting else None

    def with_scales_searched(self) -> "Model":
        """Return the model whose files get better scales than ggml's encoder finds."""
        return replace(self, options=replace(self.options, search_scales=True))

    def quantize_options(self, types: Types, overrides: Sequence[tuple[str, str]] = ()) -> QuantizeOptions:
        """Spell types for `quantize`: every tensor is named, so that llama-quantize decides nothing itself."""
        return replace(self.options, tensor_types=tuple(pinned(types)), overrides=(*self.options.overrides, *overrides))


def open_model(
    source: Path, options: QuantizeOptions, pool: str, targets: Sequence[Target], overrides: Sequence[tuple[str, str]]
) -> Model:
    """Read a model's headers and ask llama-quantize about every preset. `overrides` are the keys that we will add.

    Raises:
        GgufFileError: it is malformed. UsageError: it is quantized already, or a target makes no sense.
        InputError: the importance matrix is not its own, or nothing can be quantized.
    """
    headers = tuple(read_model(source))
    _refuse_quantized(source, headers)
    presets = _presets(source, options, headers, [target.preset.name for target in targets if target.preset])
    moved = {tensor.name for planned in presets.values() for tensor in planned.tensors if tensor.to is not tensor.was}
    tensors = [tensor for header in headers for tensor in header.tensors if tensor.name in moved]
    if not tensors:
        raise InputError(f"{source}: {_UNMOVED}")
    weights = sum(header.elements for header in headers)
    wanted = [_bits(target, presets, weights) for target in targets]
    pool = pool.strip().lower()
    kinds = pool_named(pool, min(wanted, default=4.0))
    trained = on_lattice(headers, moved)
    choices = choices_of(tensors, kinds, chosen(options), trained)
    if all(len(choice.types) == 1 for choice in choices):
        raise InputError(f"{source}: {_UNMOVED}")
    draft = Model(headers, options, choices, presets, 0, trained, pool)
    types = {choice.name: choice.nearest(TensorType.Q8_0) for choice in choices}
    planned = plan(source, quantization_type("Q8_0"), draft.quantize_options(types, overrides), headers=headers)
    return replace(draft, fixed_bytes=planned.bytes_after - draft.size_of(types))


def _refuse_quantized(source: Path, headers: Sequence[GgufHeader]) -> None:
    """Refuse a file whose weights have lost already what types should be chosen by. Raises UsageError."""
    matrices = [tensor for header in headers for tensor in header.tensors if len(tensor.shape) > 1]
    kinds = Counter(tensor.type.name for tensor in matrices if tensor.type.is_quantized)
    if kinds and kinds.total() == sum(tensor.type is not TensorType.F32 for tensor in matrices):
        told = ", ".join(f"{count} {name}" for name, count in kinds.most_common())
        raise UsageError(
            f"{source} is quantized already ({told} tensors): its types were chosen by somebody",
            hint="give the F16, BF16 or F32 file, or the checkpoint, that it was made from",
        )


def _presets(
    source: Path, options: QuantizeOptions, headers: Sequence[GgufHeader], named: Sequence[str]
) -> Mapping[str, QuantizationPlan]:
    """Plan all presets, and those `named`; what only some of them refuse is left out, what all refuse is raised."""
    failures: list[GgufkitError] = []

    def one(name: str) -> tuple[str, QuantizationPlan | None]:
        try:
            return name, plan(source, quantization_type(name), options, headers=headers)
        except (UsageError, InputError) as error:
            failures.append(error)
            return name, None

    with ThreadPoolExecutor(2) as pool:
        found = {
            name: planned for name, planned in pool.map(one, dict.fromkeys([*PRESETS, *named])) if planned is not None
        }
    if not found:
        first = failures[0]
        if isinstance(first, UsageError) and "--allow-requantize" in (first.hint or ""):
            raise UsageError(str(first), hint="start from the F16, BF16 or F32 file, or the checkpoint") from first
        raise first
    return found


def _bits(target: Target, presets: Mapping[str, QuantizationPlan], weights: int) -> float:
    if target.measure is Measure.BITS_PER_WEIGHT:
        return target.value
    if target.preset is not None:
        planned = presets.get(target.preset.name)
        return planned.bits_per_weight_after if planned else target.preset.bits_per_weight
    return 8 * target.value / weights
