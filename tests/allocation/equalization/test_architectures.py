"""What is scaled leaves the logits of each architecture as they are, by libllama; a few are known to do more."""

from pathlib import Path

import numpy as np
import pytest
from recipes import RECIPES, checkpoint
from tokenless import EXACT, convert

from ggufkit.allocation.equalization.channels import channels_of
from ggufkit.allocation.equalization.copies import write_equalized
from ggufkit.allocation.equalization.factors import Equalization
from ggufkit.gguf_file.reader import read_header
from ggufkit.inference.engine import Engine
from ggufkit.quantization.direct import library

pytestmark = [pytest.mark.oracle, pytest.mark.engine, pytest.mark.slow]

# Nothing in their files says so: they add 1 to what is gated, and clamp it; they normalize values.
DO_MORE = {"gpt-oss": {"ffn_up_exps"}, "gemma4": {"attn_v"}}
SCALED = {
    "qwen3": {"attn_norm", "attn_v", "ffn_norm", "ffn_up"},
    "qwen3moe": {"attn_norm", "attn_v", "ffn_norm", "ffn_up_exps"},
    "gemma4": {"attn_norm", "ffn_norm", "ffn_up"},
    "gpt-oss": {"attn_norm", "attn_v", "post_attention_norm"},
    "qwen3next": {"attn_norm", "attn_v", "post_attention_norm", "ffn_up_exps", "ffn_up_shexp"},
    "deepseek2": {"attn_norm", "attn_q_a_norm", "ffn_norm", "ffn_up", "ffn_up_exps", "ffn_up_shexp"},
    "command-r": {"attn_norm", "attn_v", "ffn_up"},
    "lfm2": {"attn_norm", "attn_v", "ffn_norm", "ffn_up"},
}


def logits(model: Path, tokens: list[int]) -> np.ndarray:
    with Engine.open(model, EXACT) as engine:
        return engine.logits(tokens)


@pytest.mark.parametrize("name", [name for name, recipe in RECIPES.items() if recipe.no_logits is None])
def test_what_is_scaled_leaves_the_logits_as_they_are(name: str, tmp_path: Path) -> None:
    model = convert(checkpoint(name, tmp_path / "checkpoint"))
    header, copy = read_header(model), tmp_path / "copy.gguf"
    architecture = str(header.metadata["general.architecture"])
    tokens = np.random.default_rng(1).integers(3, RECIPES[name].config.get("vocab_size", 384), 24).tolist()
    there = channels_of([header])
    ones = {each: np.ones((each.experts, each.count), np.float32) for each in there}
    does_more = DO_MORE.get(architecture, set())
    said = logits(model, tokens)
    assert Equalization(ones).kinds - does_more <= SCALED.get(architecture, Equalization(ones).kinds)

    def distance(kinds: set[str] | frozenset[str]) -> float:
        write_equalized([header], [copy], Equalization(ones).exact.only(kinds), library())
        return float(np.linalg.norm(logits(copy, tokens) - said) / np.linalg.norm(said))

    assert distance(Equalization(ones).kinds - does_more) < 1e-4
    for kind in does_more & Equalization(ones).kinds:
        assert distance({kind}) > 1e-2  # else it need not be left out
