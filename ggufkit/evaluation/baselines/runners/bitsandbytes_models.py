"""bitsandbytes through transformers: 8 bits with outliers apart (LLM.int8), and NF4 with its scales quantized again."""

from .adapter import Baseline, Job, Model, Recipe
from .causal import CausalModel
from .transformers_models import ACCEPTS, open_checkpoint

RECIPE = Recipe(
    "bitsandbytes",
    requirements=("transformers==5.23.0", "bitsandbytes==0.50.2", "accelerate==1.15.0", "numpy==2.4.6"),
    imports=("torch", "transformers.modeling_utils", "bitsandbytes", "accelerate"),
    accepts={**ACCEPTS, "bitsandbytes": ("0.48", "1"), "accelerate": ("1", "2")},
)
BASELINES = (
    Baseline("bitsandbytes-int8", "bitsandbytes, LLM.int8", RECIPE, "bitsandbytes_models", "int8", 3.0),
    Baseline("bitsandbytes-nf4", "bitsandbytes, NF4", RECIPE, "bitsandbytes_models", "nf4", 2.6),
)


def load(job: Job) -> Model:
    """Quantize while loading; computing in bfloat16."""
    import torch
    from transformers import BitsAndBytesConfig

    config = (
        BitsAndBytesConfig(load_in_8bit=True)
        if job.variant == "int8"
        else BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=torch.bfloat16,
            bnb_4bit_use_double_quant=True,
        )
    )
    return CausalModel(open_checkpoint(job, "bfloat16", quantization_config=config, device_map="cpu"))
