"""The F32 GGUF, run by libllama, gives the logits that transformers computes from the checkpoint."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny_checkpoints

from ggufkit.conversion import Converter, OutputType, convert
from ggufkit.inference.engine import Engine
from ggufkit.inference.options import CacheType, EngineOptions, FlashAttention

pytestmark = [pytest.mark.oracle, pytest.mark.engine]

_TOKENS = 40  # longer than gemma2's sliding window here
_NMSE_LIMIT = 1e-5
# By default llama.cpp keeps keys and values as float16 and fuses attention in it, which alone costs 1e-6.
_EXACT = EngineOptions(
    context_size=64,
    gpu_layers=0,
    threads=2,
    flash_attention=FlashAttention.OFF,
    cache_type_k=CacheType.F32,
    cache_type_v=CacheType.F32,
)


@pytest.mark.parametrize("name", tiny_checkpoints.RECIPES)
def test_logits_agree(
    name: str, checkpoint: Callable[..., Path], tmp_path: Path, figure: Callable[[str, str], None]
) -> None:
    source = checkpoint(name, "float32")
    output = tmp_path / "model.gguf"
    convert(source, output, outtype=OutputType.F32, converter=Converter.NATIVE)
    tokens = np.random.default_rng(1).integers(3, tiny_checkpoints.VOCABULARY, _TOKENS).tolist()

    expected = _transformers_logits(source, tokens)
    with Engine.open(output, _EXACT) as engine:
        found = engine.logits(tokens)

    error = float(((found - expected) ** 2).sum() / ((expected - expected.mean()) ** 2).sum())
    same_top = float((found.argmax(-1) == expected.argmax(-1)).mean())
    figure(f"logits of {name}", f"NMSE {error:.1e}, same top-1 at {same_top:.0%} of {_TOKENS} positions")
    assert found.shape == expected.shape
    assert same_top == 1
    assert error < _NMSE_LIMIT


def _transformers_logits(source: Path, tokens: list[int]) -> np.ndarray:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32, attn_implementation="eager").eval()
    with torch.inference_mode():
        return model(torch.tensor([tokens])).logits[0].numpy()
