"""Other ways of storing experts, and blocks of multi-token prediction, for recipes to alter a checkpoint with."""

import re
from collections.abc import Callable, Mapping

Shapes = Mapping[str, tuple[int, ...]]
_EXPERT = re.compile(r"(.+\.experts)\.(\d+)\.(\w+)\.weight")


def fuse(*, inputs_first: bool = False, gate: str = "gate_proj", down: str = "down_proj") -> Callable[[Shapes], Shapes]:
    """Put the experts of a block into two tensors, as transformers 5 has them in memory."""

    def altered(shapes: Shapes) -> Shapes:
        others = {name: shape for name, shape in shapes.items() if not _EXPERT.fullmatch(name)}
        experts = [found for name in shapes if (found := _EXPERT.fullmatch(name))]
        count = 1 + max(int(found[2]) for found in experts)
        for found in experts:
            shape = shapes[found[0]]
            if found[3] == gate:
                fused = (count, 2 * shape[0], shape[1])
                others[f"{found[1]}.gate_up_proj"] = (fused[0], fused[2], fused[1]) if inputs_first else fused
            elif found[3] == down:
                fused = (count, *shape)
                others[f"{found[1]}.down_proj"] = (fused[0], fused[2], fused[1]) if inputs_first else fused
        return others

    return altered


def rename(*pairs: tuple[str, str]) -> Callable[[Shapes], Shapes]:
    """Replace parts of names."""

    def altered(shapes: Shapes) -> Shapes:
        result = {}
        for name, shape in shapes.items():
            for old, new in pairs:
                name = name.replace(old, new)
            result[name] = shape
        return result

    return altered


def predicting(like: int, block: int, **parts: tuple[int, ...]) -> Callable[[Shapes], Shapes]:
    """Add a block of multi-token prediction that is made like another one, with these parts of its own."""

    def altered(shapes: Shapes) -> Shapes:
        own = f"model.layers.{block}."
        copied = {
            name.replace(f"model.layers.{like}.", own): shape
            for name, shape in shapes.items()
            if f"model.layers.{like}." in name
        }
        return {
            **shapes,
            **copied,
            **{f"{own}{part.replace('__', '.')}.weight": shape for part, shape in parts.items()},
        }

    return altered


NEXTN = {"eh_proj": (64, 128), "enorm": (64,), "hnorm": (64,)}
WHOLE_NEXTN = {**NEXTN, "shared_head__norm": (64,), "shared_head__head": (384, 64), "embed_tokens": (384, 64)}
