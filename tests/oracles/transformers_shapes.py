#!/usr/bin/env python3
"""Have transformers build the models of recipes: their config.json, the tensors that it saves, and what it defaults.

Run as a child process: reads {name: {model, config, extra_config}} from stdin, writes {name: {config, shapes,
defaulted}} or {name: {error}} to stdout. Models that transformers does not build are not its business.
"""

import json
import struct
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any


def main() -> None:
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    torch.manual_seed(0)
    results = {}
    for name, recipe in json.load(sys.stdin).items():
        try:
            results[name] = build(transformers, recipe)
        except Exception:  # noqa: BLE001 - whatever it is, the other recipes go on
            results[name] = {"error": traceback.format_exc(limit=-3)}
    json.dump(results, sys.stdout)


def build(transformers: Any, recipe: dict[str, Any]) -> dict[str, Any]:
    model_class = getattr(transformers, recipe["model"])
    config = model_class.config_class(**recipe["config"])
    model = model_class(config)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        saved = json.loads((Path(folder) / "config.json").read_text())
        shapes = {}
        for path in sorted(Path(folder).glob("*.safetensors")):
            with path.open("rb") as file:
                header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
            shapes |= {key: entry["shape"] for key, entry in header.items() if key != "__metadata__"}
    implied = defaulted(config, saved)
    for key, value in recipe["extra_config"].items():
        if value is None:
            saved.pop(key, None)
        else:
            saved[key] = value
    saved.pop("transformers_version", None)
    return {"config": saved, "shapes": shapes, "defaulted": [key for key in implied if key in saved]}


def defaulted(config: Any, saved: dict[str, Any]) -> list[str]:
    """Name the keys that config.json could as well leave out, because transformers takes these values anyway."""
    try:
        fresh = type(config)().to_dict()
    except Exception:  # noqa: BLE001 - some configs cannot be made without arguments: then nothing is implied
        return []
    kept = {"architectures", "model_type", "dtype", "torch_dtype", "transformers_version"}
    saved = {key: without_tags(value) for key, value in saved.items()}
    candidates = [key for key in saved if key not in kept and key in fresh and fresh[key] == saved[key]]
    loaded = type(config).from_dict({key: value for key, value in saved.items() if key not in candidates}).to_dict()
    whole = type(config).from_dict(saved).to_dict()
    return candidates if {**loaded, "transformers_version": 0} == {**whole, "transformers_version": 0} else []


def without_tags(value: Any) -> Any:
    """Read numbers that JSON has no words for as transformers writes them: infinity is {"__float__": "Infinity"}."""
    if isinstance(value, list):
        return [without_tags(item) for item in value]
    return float(value["__float__"]) if isinstance(value, dict) and set(value) == {"__float__"} else value


if __name__ == "__main__":
    main()
