"""Run a tiny checkpoint that has no tokenizer: the file says that it has as many tokens as the embedding has rows."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ggufkit.architectures import spec_for
from ggufkit.checkpoints import open_checkpoint
from ggufkit.conversion import OutputType
from ggufkit.conversion.execute import execute
from ggufkit.conversion.plan import ConversionPlan, make_plan
from ggufkit.inference.engine import Engine
from ggufkit.inference.options import CacheType, EngineOptions, FlashAttention
from ggufkit.progress import silent

# By default llama.cpp keeps keys and values as float16 and fuses attention in it, which alone costs 1e-6.
EXACT = EngineOptions(
    context_size=64,
    gpu_layers=0,
    threads=1,
    flash_attention=FlashAttention.OFF,
    cache_type_k=CacheType.F32,
    cache_type_v=CacheType.F32,
)


@contextlib.contextmanager
def planned(folder: Path, outtype: str = "f32") -> Iterator[ConversionPlan]:
    """Plan the conversion of a checkpoint."""
    with open_checkpoint(folder) as opened:
        spec = spec_for(opened.config.architecture, opened.config.model_type)
        no_tokenizer = {
            "tokenizer.ggml.model": "none",
            "tokenizer.ggml.token_type_count": opened.config.get("type_vocab_size") or 1,
            f"{spec.name}.vocab_size": opened.config["vocab_size"],
        }
        wanted = OutputType(outtype)
        yield make_plan(opened, spec, wanted, description=no_tokenizer, keep=wanted.keeps)


def convert(folder: Path, outtype: OutputType = OutputType.F32) -> Path:
    """Convert a checkpoint to a file in its folder that is said to have as many tokens as there are rows."""
    output = folder / f"model-{outtype}.gguf"
    with planned(folder, outtype) as plan:
        output.touch()
        execute(plan, output, threads=1, progress=silent)
    return output


def convert_and_run(folder: Path, tokens: list[int]) -> np.ndarray:
    """Convert a checkpoint to F32 and give the logits of a prompt, tokens x vocabulary."""
    with Engine.open(convert(folder), EXACT) as engine:
        return engine.logits(tokens)
