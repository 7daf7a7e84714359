"""Modules of a checkpoint that hold a weight in several parts, and what a config says of each of them."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ggufkit.checkpoints.name_patterns import matches
from ggufkit.checkpoints.tensors import StoredTensor
from ggufkit.errors import CheckpointError


@dataclass(frozen=True, slots=True)
class Module:
    """A module's name and its tensors by the last part of their names."""

    name: str
    parts: Mapping[str, StoredTensor]

    def __getitem__(self, kind: str) -> StoredTensor:
        """Give a part. Raises CheckpointError when the checkpoint has none."""
        if kind not in self.parts:
            there = ", ".join(sorted(self.parts))
            raise CheckpointError(
                f"tensor {self.name}.{kind} is missing; there are {there}", hint="a shard may be missing"
            )
        return self.parts[kind]

    def words(self, kind: str) -> StoredTensor:
        """Give a part that holds packed integers. Raises CheckpointError when it is missing, or of another type."""
        tensor = self[kind]
        if tensor.dtype != "I32":
            raise CheckpointError(f"tensor {tensor.name!r} is of type {tensor.dtype}, expected I32: packed integers")
        return tensor

    def group_size(self, settings: Mapping[str, Any], inputs: int, key: str = "group_size") -> int:
        """Give how many inputs share a scale: what the config says, else what the number of scales does.

        Raises:
            CheckpointError: the config says nothing that can be.
        """
        size = settings.get(key)
        if size is None:
            return -(-inputs // max(1, self["scales"].shape[0]))
        if not isinstance(size, int) or isinstance(size, bool) or size == 0 or size < -1:
            raise CheckpointError(f"quantization_config: {key} is {size!r}, expected a positive integer, or -1 for all")
        return inputs if size == -1 else min(size, inputs)


def modules(stored: Mapping[str, StoredTensor], kind: str, dtype: str) -> list[Module]:
    """Find the modules that have a part of this kind and element type, each with all that is stored beside it."""
    found = [name.rpartition(".")[0] for name, tensor in stored.items() if name.endswith(f".{kind}")]
    wanted: dict[str, dict[str, StoredTensor]]
    wanted = {module: {} for module in found if stored[f"{module}.{kind}"].dtype == dtype}
    for name, tensor in stored.items():
        module, _, last = name.rpartition(".")
        if module in wanted:
            wanted[module][last] = tensor
    return [Module(name, parts) for name, parts in wanted.items()]


def said(config: Mapping[str, Any], module: str) -> Mapping[str, Any]:
    """Give what the config says of a module, which may differ from the rest.

    GPTQModel's `dynamic` maps patterns, behind `+:` where they are not excluded (`-:`), to settings; AutoRound's
    `extra_config` maps names or patterns.

    Raises:
        CheckpointError: a pattern is none.
    """
    for pattern, settings in _pairs(config, "dynamic"):
        if not pattern.startswith("-:") and _matches(pattern.removeprefix("+:"), module):
            return {**config, **settings}
    for pattern, settings in _pairs(config, "extra_config"):
        if pattern == module or _matches(f"(?:{pattern})$", module):
            return {**config, **settings}
    return config


def _pairs(config: Mapping[str, Any], key: str) -> list[tuple[str, Mapping[str, Any]]]:
    found = config.get(key)
    if not isinstance(found, Mapping):
        return []
    return [(pattern, settings if isinstance(settings, Mapping) else {}) for pattern, settings in found.items()]


def _matches(pattern: str, name: str) -> bool:
    return matches(pattern, name, where="quantization_config:")


def summary(found: Iterable[tuple[int, int]]) -> str:
    """Say bits and sizes of groups (-1 for all inputs) in a few words: "4 and 8 bits, groups of 32, 128"."""
    pairs = list(found)
    bits = " and ".join(str(value) for value in sorted({bits for bits, _ in pairs}))
    groups = sorted({group for _, group in pairs})
    sizes = ", ".join(str(group) for group in groups if group > 0)
    whole = ["a scale for each output"] if groups[:1] == [-1] else []
    return ", ".join([f"{bits} bits", *([f"groups of {sizes}"] if sizes else []), *whole])
