"""transformers itself, in float32 and in bfloat16: the system that most checkpoints are published for."""

from typing import Any

from .adapter import Baseline, CannotRunError, Job, Model, Recipe
from .causal import CausalModel

ACCEPTS = {"torch": ("2.6", "3"), "transformers": ("5", "6")}
RECIPE = Recipe(
    "transformers",
    requirements=("transformers==5.23.0", "numpy==2.4.6"),
    imports=("torch", "transformers.modeling_utils"),
    accepts=ACCEPTS,
)
BASELINES = (
    Baseline("transformers-fp32", "transformers, float32", RECIPE, "transformers_models", "float32", 4.0),
    Baseline("transformers-bf16", "transformers, bfloat16", RECIPE, "transformers_models", "bfloat16", 2.0),
)


def load(job: Job) -> Model:
    """Load the checkpoint in the type that the variant names."""
    return CausalModel(open_checkpoint(job, job.variant))


def open_checkpoint(job: Job, dtype: str, **more: Any) -> Any:
    """Open a checkpoint in a type of torch, for others of these modules too; `more` goes to `from_pretrained`."""
    import torch
    from transformers import AutoModelForCausalLM

    model, told = AutoModelForCausalLM.from_pretrained(
        job.checkpoint,
        dtype=getattr(torch, dtype),
        trust_remote_code=False,
        local_files_only=True,
        output_loading_info=True,
        **more,
    )
    missing = sorted(told.get("missing_keys", ()))
    if missing:  # transformers would go on with weights that it makes up at random
        raise CannotRunError(f"transformers finds no weights for {missing[0]} and {len(missing) - 1} others")
    return model.eval()
