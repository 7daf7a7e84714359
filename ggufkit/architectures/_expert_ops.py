"""Tensor operations on experts that the checkpoint stores together, expert by expert, so that they may be huge."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ggufkit.architectures._ops import Array, Shape, TakesTheWhole
from ggufkit.architectures._sizes import Config, size
from ggufkit.errors import CheckpointError


def _has_inputs_first(stored: Shape, inputs: int, outputs: int, config: Config) -> bool:
    """Tell from a stacked tensor's shape, experts x ? x ?, which axis is which.

    Llama 4 and GPT-OSS have the inputs first, and so had Qwen 3 VL's experts until transformers 5 turned them round.
    Where both would fit, the experts' other tensor tells (`experts_with_inputs_first`).
    """
    if len(stored) != 3 or sorted(stored[1:]) != sorted((inputs, outputs)):
        raise CheckpointError(f"shape {stored} is not that of stacked experts from {inputs} to {outputs}")
    return bool(config["inputs_first"]) if inputs == outputs else stored[1] == inputs


def experts_with_inputs_first(config: Config, stored: Mapping[str, Shape]) -> bool:
    """Tell of a checkpoint's stacked experts, by the first whose shape leaves no doubt, which axis is which.

    Without experts, and for a width that equals hidden in both, the answer is False: as transformers 5 has them.
    """
    for name, shape in stored.items():
        if len(shape) == 3 and name.removesuffix(".weight").endswith((".experts.gate_up_proj", ".experts.down_proj")):
            is_down = "down_proj" in name
            inputs, outputs = (
                size(config, "expert_ff" if is_down else "hidden"),
                size(config, "hidden" if is_down else "2*expert_ff"),
            )
            if inputs != outputs:
                return shape[1] == inputs
    return False


@dataclass(frozen=True, slots=True)
class SplitGateUp:
    """Split experts' fused gate_up_proj into gate and up, each experts x width x hidden.

    It may be stored experts x hidden x 2 width or experts x 2 width x hidden, and gate and up may take turns
    (`interleaved`, GPT-OSS) or have one half each.
    """

    interleaved: bool = False
    moves_only: ClassVar[bool] = True

    def shapes(self, sources: Sequence[Shape], config: Config) -> list[Shape]:
        """Give the shapes of gate and of up, which are equal."""
        (source,) = sources
        hidden, both = size(config, "hidden"), size(config, "2*expert_ff")
        _has_inputs_first(source, hidden, both, config)
        return [(source[0], both // 2, hidden)] * 2

    def apply(self, sources: Sequence[Array], config: Config) -> list[Array]:
        """Split, inputs last."""
        (both,) = sources
        if self.turns(both.shape, config):
            both = both.swapaxes(1, 2)
        return [both[:, ::2], both[:, 1::2]] if self.interleaved else np.split(both, 2, axis=1)

    def turns(self, source: Shape, config: Config) -> bool:
        """Whether the inputs are stored first, and must come last."""
        return _has_inputs_first(source, size(config, "hidden"), size(config, "2*expert_ff"), config)

    def rows_together(self, source: Shape, config: Config) -> int | None:  # noqa: ARG002 - the protocol's
        """Expert by expert."""
        return 1


@dataclass(frozen=True, slots=True)
class StackedDown:
    """Take experts' fused down_proj, experts x hidden x width or experts x width x hidden."""

    moves_only: ClassVar[bool] = True

    def shapes(self, sources: Sequence[Shape], config: Config) -> list[Shape]:
        """Give experts x hidden x width."""
        (source,) = sources
        width, hidden = size(config, "expert_ff"), size(config, "hidden")
        _has_inputs_first(source, width, hidden, config)
        return [(source[0], hidden, width)]

    def apply(self, sources: Sequence[Array], config: Config) -> list[Array]:
        """Bring the inputs last."""
        (down,) = sources
        return [down.swapaxes(1, 2) if self.turns(down.shape, config) else down]

    def turns(self, source: Shape, config: Config) -> bool:
        """Whether the inputs are stored first, and must come last."""
        return _has_inputs_first(source, size(config, "expert_ff"), size(config, "hidden"), config)

    def rows_together(self, source: Shape, config: Config) -> int | None:  # noqa: ARG002 - the protocol's
        """Expert by expert."""
        return 1


@dataclass(frozen=True, slots=True)
class TakeTurns(TakesTheWhole):
    """Split the last axis into the even elements and the odd ones: GPT-OSS's biases of gate and up."""

    def shapes(self, sources: Sequence[Shape], config: Config) -> list[Shape]:  # noqa: ARG002 - the protocol's
        """Halve the last axis."""
        (source,) = sources
        if not source or source[-1] % 2:
            raise CheckpointError(f"shape {source} does not split into gate and up of equal width")
        return [(*source[:-1], source[-1] // 2)] * 2

    def apply(self, sources: Sequence[Array], config: Config) -> list[Array]:  # noqa: ARG002 - the protocol's
        """Take every second element."""
        return [sources[0][..., ::2], sources[0][..., 1::2]]


@dataclass(frozen=True, slots=True)
class Twice:
    """Write a tensor to two targets: an output that is tied to the embedding, where llama.cpp wants its own."""

    moves_only: ClassVar[bool] = True

    def shapes(self, sources: Sequence[Shape], config: Config) -> list[Shape]:  # noqa: ARG002 - the protocol's
        """Keep the shape, twice."""
        return [sources[0], sources[0]]

    def apply(self, sources: Sequence[Array], config: Config) -> list[Array]:  # noqa: ARG002 - the protocol's
        """Keep the elements, twice."""
        return [sources[0], sources[0]]

    def rows_together(self, source: Shape, config: Config) -> int | None:  # noqa: ARG002 - the protocol's
        """Row by row."""
        return 1
