"""What a sentence-transformers folder says beside config.json: how vectors are pooled, and what comes after."""

import json
from pathlib import Path
from typing import Any

from ggufkit.errors import CheckpointError

_MODES = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "lasttoken",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len",
    "pooling_mode_weightedmean_tokens": "weightedmean",
}


def read_modules(folder: Path) -> dict[str, Any]:
    """Read modules.json and the pooling module's config, as keys to lay beside those of config.json.

    Gives `sentence_transformers_modules`, the last words of the modules' types in order ("Transformer", "Pooling",
    "Dense"...), and `sentence_transformers_pooling`, the mode's name ("mean", "cls", "lasttoken"; several joined by
    "+"). Nothing when there is no modules.json.

    Raises:
        CheckpointError: modules.json or the pooling module's config.json is malformed or missing.
    """
    path = folder / "modules.json"
    if not path.is_file():
        return {}
    modules = _read(path)
    if not isinstance(modules, list) or not all(isinstance(module, dict) for module in modules):
        raise CheckpointError(f"{path} is not a list of modules", hint="download it again, or remove it")
    kinds = [str(module.get("type", "")).rsplit(".", 1)[-1] for module in modules]
    found: dict[str, Any] = {"sentence_transformers_modules": kinds}
    for kind, module in zip(kinds, modules, strict=True):
        if kind == "Pooling":
            place = folder / str(module.get("path", ""))
            if not place.resolve().is_relative_to(folder.resolve()):
                raise CheckpointError(f"{path} names a folder outside of the model's: {module.get('path')!r}")
            found["sentence_transformers_pooling"] = _mode(place / "config.json")
            break
    return found


def _mode(path: Path) -> str:
    settings = _read(path)
    if not isinstance(settings, dict):
        raise CheckpointError(f"{path} holds no settings", hint="download it again")
    named = settings.get("pooling_mode")
    modes = [mode for key, mode in _MODES.items() if settings.get(key) is True]
    if not modes and isinstance(named, str):
        return named
    return "+".join(modes) or "none"


def _read(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}", hint="download it again") from None
