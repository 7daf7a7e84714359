"""All baselines, by their names."""

from collections.abc import Sequence
from importlib import import_module

from ggufkit.errors import UsageError
from ggufkit.evaluation.baselines.runners.adapter import Baseline

_MODULES = (
    "transformers_models",
    "torch_dynamic",
    "torchao_int8",
    "bitsandbytes_models",
    "onnxruntime_models",
    "openvino_models",
    "neural_compressor_models",
)


def baselines() -> dict[str, Baseline]:
    """Return all of them, in the order in which tables show them."""
    found: dict[str, Baseline] = {}
    for module in _MODULES:
        for baseline in import_module(f"ggufkit.evaluation.baselines.runners.{module}").BASELINES:
            found[baseline.name] = baseline
    return found


def named(names: Sequence[str]) -> list[Baseline]:
    """Return those that are named, each once; `all` names all, and a system's name all of that system.

    Raises:
        UsageError: there is none of a name.
    """
    known = baselines()
    found: dict[str, Baseline] = {}
    for name in names:
        chosen = [it for it in known.values() if name in ("all", it.name, it.recipe.name, it.name.partition("-")[0])]
        if not chosen:
            raise UsageError(f"no baseline is named {name!r}", hint=f"all, a file .json, or of {', '.join(known)}")
        found.update((it.name, it) for it in chosen)
    return list(found.values())
