#!/usr/bin/env python3
"""Compute logits by transformers, in float32 on the CPU: many checkpoints in one process.

    python tests/oracles/transformers_logits.py JOBS.json

A job is {folder, model, tokens}: the folder gets logits.npy (tokens x vocabulary), or error.txt. A class without an
output head gives its last hidden state times the embedding, as llama.cpp runs such a file; an encoder its hidden state.
"""

import json
import sys
import traceback
from pathlib import Path
from typing import Any

import numpy as np


def main() -> None:
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    for job in json.loads(Path(sys.argv[1]).read_text()):
        folder = Path(job["folder"])
        try:
            with torch.inference_mode():
                np.save(folder / "logits.npy", run(transformers, torch, job))
        except Exception:  # noqa: BLE001 - whatever it is, the other jobs go on
            (folder / "error.txt").write_text(traceback.format_exc(limit=-4))


def run(transformers: Any, torch: Any, job: dict[str, Any]) -> np.ndarray:
    model, loading = getattr(transformers, job["model"]).from_pretrained(
        job["folder"], dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    missing = [name for name in loading["missing_keys"] if "inv_freq" not in name]
    if missing or loading.get("mismatched_keys"):
        raise ValueError(f"transformers found no {missing}, mismatched {loading.get('mismatched_keys')}")
    output = model.eval()(input_ids=torch.tensor([job["tokens"]]))
    if getattr(output, "logits", None) is not None:
        return output.logits[0].numpy()
    hidden = output.last_hidden_state[0]
    return (hidden @ model.get_input_embeddings().weight.T).numpy()


if __name__ == "__main__":
    main()
