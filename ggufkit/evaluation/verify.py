"""Is this GGUF file what that checkpoint should become? Five checks, each against a judge that is not ours."""

import contextlib
import time
from collections.abc import Callable, Collection
from pathlib import Path

from ggufkit.architectures import spec_for
from ggufkit.checkpoints import Checkpoint, open_checkpoint
from ggufkit.conversion.plan import ConversionPlan, OutputType, make_plan
from ggufkit.errors import CheckpointError, GgufFileError, UsageError
from ggufkit.evaluation import chat_templates, logits, metadata, tensors, tokens
from ggufkit.evaluation.results import Check, Grade, Verdict, Verification
from ggufkit.gguf_file.parts import read_parts
from ggufkit.llamacpp.cpu import usable_cores
from ggufkit.progress import Progress, silent

__all__ = ["CHECKS", "Check", "Grade", "Verdict", "Verification", "verify"]

CHECKS = ("metadata", "tokens", "chat-template", "tensors", "logits")
"""The checks by the names that `skip` takes, the fastest first."""


def verify(
    model: Path,
    checkpoint: Path,
    *,
    skip: Collection[str] = (),
    prompt_tokens: int = logits.DEFAULT_TOKENS,
    threads: int | None = None,
    progress: Progress = silent,
) -> Verification:
    """Compare a GGUF file (for a split one, its first part) with the checkpoint folder that it was made of.

    `skip` names checks of CHECKS that are left out. What a check finds wrong is in the result, not an exception; so is
    what it could not do (no torch, no spec of ours for the architecture).

    Raises:
        GgufFileError: the model is no GGUF file, or is malformed.
        CheckpointError: there is no checkpoint, or it cannot be read.
        UsageError: `skip` names no check.
    """
    if unknown := set(skip) - set(CHECKS):
        raise UsageError(f"no check is called {', '.join(sorted(unknown))}", hint=f"there are {', '.join(CHECKS)}")
    started = time.monotonic()
    parts = read_parts(model)
    architecture = parts[0].metadata.get("general.architecture")
    if not isinstance(architecture, str):
        raise GgufFileError(f"{model} is not a model: it has no key 'general.architecture'")
    with open_checkpoint(checkpoint) as opened:
        predicts = any(".nextn." in tensor.name for part in parts for tensor in part.tensors)
        plan, reason = _plan(opened, mtp=predicts)

        def planned(name: str, check: Callable[[ConversionPlan], Check]) -> Check:
            return check(plan) if plan else Check(name, Grade.SKIPPED, reason)

        doings: dict[str, Callable[[], Check]] = {
            "metadata": lambda: planned(metadata.NAME, lambda it: metadata.check_metadata(it, parts)),
            "tokens": lambda: tokens.check_tokens(model, checkpoint, parts),
            "chat-template": lambda: chat_templates.check_chat_template(checkpoint, parts),
            "tensors": lambda: planned(
                tensors.NAME,
                lambda it: tensors.check_tensors(it, parts, threads=threads or usable_cores(), progress=progress),
            ),
            "logits": lambda: logits.check_logits(
                model, opened, parts, tokens=prompt_tokens, threads=threads, progress=progress
            ),
        }
        checks = []
        for name, do in doings.items():
            if name in skip:
                checks.append(Check(name.replace("-", " "), Grade.SKIPPED, "as asked"))
                continue
            progress(f"Checking {name.replace('-', ' ')}", 0, 0, "steps")
            checks.append(do())
    return Verification(model, checkpoint, architecture, tuple(checks), time.monotonic() - started)


def _plan(checkpoint: Checkpoint, *, mtp: bool) -> tuple[ConversionPlan | None, str]:
    """Plan the conversion to F32, in which nothing is lost; or say why there is no plan."""
    with contextlib.suppress(KeyError):
        if checkpoint.config.get("quantization_config"):
            return None, "the checkpoint's weights are quantized: there is nothing to compare with"
    try:
        return make_plan(
            checkpoint, spec_for(checkpoint.config.architecture, checkpoint.config.model_type), OutputType.F32, mtp=mtp
        ), ""
    except CheckpointError as error:
        return None, str(error)
