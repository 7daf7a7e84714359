"""The catalogue of supported architectures, as data: numpy and themselves, no files.

Adding one: write or extend a family file (begin with the sentence that says what makes this model different; compose
tables; add only what differs), put its spec into CATALOGUE, and give it recipes in `tests/support/recipes/`. The tests
then compare it with llama.cpp's converter and with transformers. Nothing else should need to change; if something
does, the language in `_spec.py` has a gap.
"""

import difflib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ggufkit.architectures import _names as names
from ggufkit.architectures import _tensors as tensors
from ggufkit.architectures import (
    afmoe,
    apertus,
    arcee,
    baichuan,
    bert,
    bloom,
    chatglm,
    codeshell,
    cohere,
    cohere_moe,
    deepseek,
    deepseek_v1,
    distilbert,
    dots1,
    ernie,
    ernie_moe,
    eurobert,
    exaone,
    exaone4,
    exaone_moe,
    falcon,
    falcon_h1,
    gemma,
    gemma3,
    gemma4,
    glm,
    glm_moe,
    gpt2,
    gpt_oss,
    gptneox,
    granite,
    granite_moe,
    hrm_text,
    hunyuan,
    hy_v3,
    internlm,
    jais2,
    jamba,
    lfm2,
    lfm2_moe,
    llama,
    llama4,
    mamba,
    minicpm,
    minicpm3,
    minimax,
    mistral,
    modernbert,
    mpt,
    nemotron,
    olmo,
    olmoe,
    orion,
    phi,
    phi3,
    qwen,
    qwen35,
    qwen_moe,
    qwen_next,
    qwen_vl,
    roberta,
    seed_oss,
    smollm3,
    stablelm,
    starcoder2,
    t5,
    xverse,
    youtu,
)
from ggufkit.architectures._expert_ops import Twice, experts_with_inputs_first
from ggufkit.architectures._ops import Array, Op, Shape, Stack
from ggufkit.architectures._rope import check_rope
from ggufkit.architectures._sizes import SIZES, derived, shape
from ggufkit.architectures._spec import ArchSpec, Maybe, Rule, TensorTable, Vocabulary
from ggufkit.architectures._whole_rows import move_rows
from ggufkit.architectures.wrappers import WRAPPERS
from ggufkit.errors import UnsupportedArchitectureError

__all__ = [
    "CATALOGUE",
    "ArchSpec",
    "Array",
    "Maybe",
    "Op",
    "Rule",
    "Shape",
    "Stack",
    "TensorTable",
    "Twice",
    "Vocabulary",
    "check_rope",
    "derived_sizes",
    "experts_with_inputs_first",
    "hf_architectures",
    "move_rows",
    "names",
    "nearest",
    "shape",
    "spec_for",
    "tensors",
]

CATALOGUE: tuple[ArchSpec, ...] = (
    *afmoe.SPECS,
    *apertus.SPECS,
    *arcee.SPECS,
    *baichuan.SPECS,
    *bert.SPECS,
    *bloom.SPECS,
    *chatglm.SPECS,
    *codeshell.SPECS,
    *cohere.SPECS,
    *cohere_moe.SPECS,
    *deepseek.SPECS,
    *deepseek_v1.SPECS,
    *distilbert.SPECS,
    *dots1.SPECS,
    *ernie.SPECS,
    *ernie_moe.SPECS,
    *eurobert.SPECS,
    *exaone.SPECS,
    *exaone4.SPECS,
    *exaone_moe.SPECS,
    *falcon.SPECS,
    *falcon_h1.SPECS,
    *gemma.SPECS,
    *gemma3.SPECS,
    *gemma4.SPECS,
    *glm.SPECS,
    *glm_moe.SPECS,
    *gpt2.SPECS,
    *gpt_oss.SPECS,
    *gptneox.SPECS,
    *granite.SPECS,
    *granite_moe.SPECS,
    *hrm_text.SPECS,
    *hunyuan.SPECS,
    *hy_v3.SPECS,
    *internlm.SPECS,
    *jais2.SPECS,
    *jamba.SPECS,
    *lfm2.SPECS,
    *lfm2_moe.SPECS,
    *llama.SPECS,
    *llama4.SPECS,
    *mamba.SPECS,
    *minicpm.SPECS,
    *minicpm3.SPECS,
    *minimax.SPECS,
    *mistral.SPECS,
    *modernbert.SPECS,
    *mpt.SPECS,
    *nemotron.SPECS,
    *olmo.SPECS,
    *olmoe.SPECS,
    *orion.SPECS,
    *phi.SPECS,
    *phi3.SPECS,
    *qwen.SPECS,
    *qwen35.SPECS,
    *qwen_next.SPECS,
    *qwen_moe.SPECS,
    *qwen_vl.SPECS,
    *roberta.SPECS,
    *seed_oss.SPECS,
    *smollm3.SPECS,
    *stablelm.SPECS,
    *starcoder2.SPECS,
    *t5.SPECS,
    *xverse.SPECS,
    *youtu.SPECS,
)


def hf_architectures() -> list[str]:
    """List every Hugging Face architecture that a spec converts, sorted."""
    return sorted({*WRAPPERS, *(name for spec in CATALOGUE for name in spec.hf_architectures)})


def spec_for(hf_architecture: str, model_type: str | None = None) -> ArchSpec:
    """Look up the spec that converts `config.json`'s `architectures[0]`; UnsupportedArchitectureError if none does.

    `model_type` is the config's, of its text part where it has one: it tells what a wrapper wraps.
    """
    for spec in CATALOGUE:
        if hf_architecture in spec.hf_architectures or (hf_architecture in WRAPPERS and model_type in spec.defaults):
            return spec
    raise UnsupportedArchitectureError(
        f"no spec for architecture {hf_architecture!r}; nearest known: {', '.join(nearest(hf_architecture))}",
        hint="ggufkit convert --converter llama.cpp",
    )


def nearest(hf_architecture: str, also: Iterable[str] = ()) -> list[str]:
    """Name the three known architectures, ours or those of `also`, that are spelled most like this one."""
    return difflib.get_close_matches(hf_architecture, sorted({*hf_architectures(), *also}), n=3, cutoff=0.0)


def derived_sizes(spec: ArchSpec) -> dict[str, Callable[[Mapping[str, Any]], Any]]:
    """Give the sizes that a spec works out of a config, each as a function of the config."""
    return derived({**SIZES, **spec.sizes})
