#!/usr/bin/env python3
"""Compute by transformers what encoders make of tokens, in float32 on the CPU: many checkpoints in one process.

    python tests/oracles/transformers_embeddings.py JOBS.json

A job is {folder, model, tokens, decoded}: the folder gets hidden.npy (tokens x width) and, of a model with a head that
classifies, scores.npy; of one with a decoder logits.npy (decoded tokens x vocabulary); or error.txt.
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
                for name, result in run(transformers, torch, job).items():
                    np.save(folder / f"{name}.npy", result.numpy())
        except Exception:  # noqa: BLE001 - whatever it is, the other jobs go on
            (folder / "error.txt").write_text(traceback.format_exc(limit=-4))


def run(transformers: Any, torch: Any, job: dict[str, Any]) -> dict[str, Any]:
    model = getattr(transformers, job["model"]).from_pretrained(
        job["folder"], dtype=torch.float32, attn_implementation="eager"
    )
    model.eval()
    tokens = torch.tensor([job["tokens"]])
    if job["model"].endswith("ForConditionalGeneration"):
        decoded = torch.tensor([job["decoded"]])
        return {"logits": model(input_ids=tokens, decoder_input_ids=decoded).logits[0]}
    inner = model if job["model"].endswith("EncoderModel") else getattr(model, model.base_model_prefix, model)
    results = {"hidden": inner(input_ids=tokens).last_hidden_state[0]}
    if job["model"].endswith("ForSequenceClassification"):
        results["scores"] = model(input_ids=tokens).logits[0]
    return results


if __name__ == "__main__":
    main()
