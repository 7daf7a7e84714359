"""transformers and PyTorch's int8 in their children, against the same computed here with torch alone, in float64."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ggufkit.evaluation.baselines.results import Against, BaselineResult
from ggufkit.evaluation.baselines.runners import transformers_models
from ggufkit.evaluation.baselines.runners.adapter import CannotRunError, Job
from ggufkit.evaluation.evaluate import EvaluationOptions, evaluate
from ggufkit.evaluation.likelihood.logits_file import open_logits_file
from ggufkit.evaluation.likelihood.passes import Running

pytestmark = [
    pytest.mark.engine,
    pytest.mark.oracle,
    pytest.mark.slow,
    # torch says so of all of its own quantization; where it is gone, the baseline's row will say so
    pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated", "ignore:torch.quantize_per_tensor"),
]

DEMO = Path(__file__).parents[3] / "ggufkit" / "demo_model"
LENGTH, CHUNKS = 128, 3
PROMPT = "What is 14 + 38?"


def test_figures_of_the_torch_family_are_those_of_torch(
    demo_f32: Path, tmp_path: Path, figure: Callable[[str, str], None]
):
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    kept = tmp_path / "kept.kld"
    found = evaluate(
        demo_f32,
        [],
        [DEMO / "heldout.txt"],
        EvaluationOptions(
            chunk_tokens=LENGTH,
            chunks=CHUNKS,
            running=Running(threads=1),
            folder=tmp_path / "work",
            keep_logits=kept,
            max_tokens=16,
        ),
        prompts=[{"prompt": PROMPT}],
        against=Against(
            ["transformers-fp32", "torch-int8"], checkpoint=DEMO, prompt_tokens=32, generated_tokens=4, repeats=1
        ),
    )
    float32, int8 = found.baselines
    assert float32.versions["torch"] == torch.__version__
    assert set(float32.versions) == {"python", "torch", "transformers", "numpy"}
    chunks = torch.tensor(open_logits_file(kept).tokens())

    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(DEMO, dtype=torch.float32).eval()
    here = log_probabilities(model, chunks)
    assert perplexity(float32) == pytest.approx(own_perplexity(here, chunks), rel=1e-5)
    assert found.base.likelihood is not None
    gguf = found.base.likelihood.perplexity.value
    assert perplexity(float32) == pytest.approx(gguf, rel=2e-4)  # llama.cpp keeps keys and values in 16 bits
    figure("perplexity, transformers / F32 GGUF", f"{perplexity(float32):.5f} / {gguf:.5f}")
    assert float32.divergence is not None
    assert abs(float32.divergence.mean_kld.value) < 1e-5
    assert float32.divergence.same_top.value == 1.0

    tokenizer = AutoTokenizer.from_pretrained(DEMO)
    text = f"<|im_start|>user\n{PROMPT}<|im_end|>\n<|im_start|>assistant\n"
    asked = tokenizer(text, return_tensors="pt", add_special_tokens=False)
    reply = model.generate(**asked, max_new_tokens=16, do_sample=False)[0, asked["input_ids"].shape[1] :]
    assert float32.replies[0][0].text == tokenizer.decode(reply, skip_special_tokens=True)

    weights = sum({it.data_ptr(): it.numel() for it in model.parameters()}.values())
    assert float32.footprint.weight_bytes == pytest.approx(4 * weights, rel=0.02)
    torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8, inplace=True)
    quantized = log_probabilities(model, chunks)
    assert perplexity(int8) == pytest.approx(own_perplexity(quantized, chunks), rel=1e-3)
    kld = (here.exp() * (here - quantized)).sum(-1).mean().item()
    assert int8.divergence is not None
    assert int8.divergence.mean_kld.value == pytest.approx(kld, rel=0.02)
    assert int8.footprint.weight_bytes is not None
    assert weights < int8.footprint.weight_bytes < 2 * weights  # int8, and the embedding in float32
    figure("KL divergence of torch-int8, here / child", f"{kld:.5f} / {int8.divergence.mean_kld.value:.5f}")


def log_probabilities(model: Any, chunks: Any) -> Any:
    """Return float64 [chunks, scored, n_vocab]: those that predict the tokens behind the middle."""
    import torch

    kept = LENGTH - LENGTH // 2
    with torch.inference_mode():
        # One by one, for dynamic quantization scales activations by all that is read at once.
        logits = [model(input_ids=chunk[None], logits_to_keep=kept).logits[0, :-1] for chunk in chunks]
    return torch.log_softmax(torch.stack(logits).double(), dim=-1)


def own_perplexity(logs: Any, chunks: Any) -> float:
    nll = -logs.gather(2, chunks[:, LENGTH // 2 + 1 :, None])
    return float(np.exp(nll.mean().item()))


def perplexity(row: BaselineResult) -> float:
    assert row.why is None
    assert row.likelihood is not None
    return row.likelihood.perplexity.value


def test_weights_that_transformers_would_make_up_are_refused(tmp_path: Path):
    from safetensors.torch import load_file, save_file

    folder = Path(shutil.copytree(DEMO, tmp_path / "model"))
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    job = Job(
        checkpoint=str(folder),
        module="transformers_models",
        variant="float32",
        threads=1,
        work="",
        output="",
        vocabulary_size=1536,
    )
    with pytest.raises(CannotRunError, match=r"no weights for model\.layers\.1\.mlp\.up_proj\.weight"):
        transformers_models.load(job)
