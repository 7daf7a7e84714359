"""LoRA adapters as PEFT saves them, with random factors, written without PEFT."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from ggufkit.checkpoints import open_checkpoint

ATTENTION_AND_MLP = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def write(
    base: Path,
    folder: Path,
    modules: Sequence[str] = ATTENTION_AND_MLP,
    *,
    rank: int = 4,
    ranks: dict[str, int] | None = None,
    alpha: float = 8,
    whole: dict[str, np.ndarray] | None = None,
    **config: Any,
) -> Path:
    """Write an adapter for every matrix of `base` whose module's name ends in one of `modules`.

    `ranks` gives modules (by the end of their name) another rank; `whole` are further tensors, by their PEFT names.
    """
    folder.mkdir(parents=True)
    random = np.random.default_rng(1)
    tensors = dict(whole or {})

    def factor(*shape: int) -> np.ndarray:
        return (random.standard_normal(shape) * 0.1).astype(np.float32)

    with open_checkpoint(base) as checkpoint:
        for name, tensor in checkpoint.tensors.items():
            module = name.removesuffix(".weight")
            if not module.endswith(tuple(modules)) or len(tensor.shape) != 2:
                continue
            r = next((value for end, value in (ranks or {}).items() if module.endswith(end)), rank)
            rows, columns = tensor.shape
            if config.get("fan_in_fan_out"):
                rows, columns = columns, rows
            path = f"base_model.model.{module}"
            if module.endswith(("embed_tokens", "wte")):
                tensors[f"{path}.lora_embedding_A"] = factor(r, rows)
                tensors[f"{path}.lora_embedding_B"] = factor(columns, r)
            else:
                tensors[f"{path}.lora_A.weight"] = factor(r, columns)
                tensors[f"{path}.lora_B.weight"] = factor(rows, r)
    save_file(tensors, folder / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "r": rank, "lora_alpha": alpha, "target_modules": list(modules), **config}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return folder
