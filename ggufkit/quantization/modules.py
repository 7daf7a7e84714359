"""Hugging Face's names for the tensors of a GGUF file: `model.layers.3.mlp.down_proj` is `blk.3.ffn_down`.

Where our own conversion made the file, it knows the names exactly. For any other file they come from the tables of the
architectures that we know, or from those of the `gguf` package.
"""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

ANY = "*"  # stands for the number of an expert, all of which are in one tensor
_BLOCK = re.compile(r"(?<=blk\.)\d+(?=\.)")
_ENDINGS = (".weight", ".bias")


def module_of(name: str) -> str:
    """Drop what a module calls its parameter: `lm_head` for `lm_head.weight`."""
    for ending in _ENDINGS:
        name = name.removesuffix(ending)
    return name


def known_modules(names: Iterable[str], architecture: str) -> Mapping[str, tuple[str, ...]]:
    """Map each Hugging Face module to the tensors, of these names, that it went to."""
    table = _from_catalogue(architecture) or _from_gguf_package(architecture)
    modules: dict[str, list[str]] = defaultdict(list)
    for name in names:
        block = _BLOCK.search(name)
        for pattern in table.get(module_of(_BLOCK.sub("{b}", name, count=1)), ()):
            modules[pattern.replace("{b}", block[0] if block else "").replace("{e}", ANY)].append(name)
    return {module: tuple(targets) for module, targets in modules.items()}


def _from_catalogue(architecture: str) -> Mapping[str, list[str]]:
    """Turn our tables round: from `blk.{b}.ffn_down` to the Hugging Face names that become it."""
    from ggufkit.architectures import CATALOGUE, Rule

    table: dict[str, list[str]] = defaultdict(list)
    for spec in CATALOGUE:
        if spec.name != architecture:
            continue
        for tensors in spec.tensors:
            for source, entry in tensors.items():
                for target in entry.targets if isinstance(entry, Rule) else (entry or "",):
                    table[target.rstrip("?")] += [source] if isinstance(source, str) else source
    return table


def _from_gguf_package(architecture: str) -> Mapping[str, list[str]]:
    """Use the names that llama.cpp's converter knows; several families share an architecture, so some are strangers."""
    from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

    table: dict[str, list[str]] = defaultdict(list)
    found = next((number for number, name in MODEL_ARCH_NAMES.items() if name == architecture), None)
    if found is None:
        return table
    for source, (_, target) in get_tensor_name_map(found, 1).mapping.items():
        for theirs, ours in _with_holes(source, target):
            table[ours].append(theirs)
    return table


def _with_holes(source: str, target: str) -> Iterator[tuple[str, str]]:
    """Put `{b}` where the package wrote block 0 of 1."""
    if "blk.0." in target:
        yield re.sub(r"(?<=\.)0(?=\.)", "{b}", source, count=1), target.replace("blk.0.", "blk.{b}.", 1)
    else:
        yield source, target
