"""Is this GGUF file what that checkpoint should become? Five checks, each against a judge that is not ours."""

import time
from collections.abc import Callable, Collection
from pathlib import Path

from ggufkit.architectures import spec_for
from ggufkit.checkpoints import Checkpoint, open_checkpoint
from ggufkit.conversion import Keep, MetadataEdits, OutputType, TokenizerOptions
from ggufkit.conversion.plan import ConversionPlan, make_plan
from ggufkit.errors import CheckpointError, GgufFileError, UsageError
from ggufkit.evaluation import adapters, chat_templates, logits, metadata, tensors, tokens
from ggufkit.evaluation.results import Check, Grade, Verdict, Verification
from ggufkit.fitness import read_fit_parts
from ggufkit.llamacpp.cpu import usable_cores
from ggufkit.progress import Progress, silent

__all__ = ["CHECKS", "Check", "Grade", "Verdict", "Verification", "verify"]

CHECKS = ("metadata", "tokens", "chat-template", "tensors", "logits")
"""The checks by the names that `skip` takes, the fastest first; with an adapter there is one more, `adapter`."""


def verify(
    model: Path,
    checkpoint: Path,
    *,
    skip: Collection[str] = (),
    lora: tuple[Path, Path] | None = None,
    tokenizer: TokenizerOptions | None = None,
    edits: MetadataEdits | None = None,
    prompt_tokens: int = logits.DEFAULT_TOKENS,
    threads: int | None = None,
    progress: Progress = silent,
) -> Verification:
    """Compare a GGUF file (for a split one, its first part) with the checkpoint folder that it was made of.

    `skip` names checks of CHECKS that are left out. `lora` is a GGUF adapter and the PEFT folder that it was made of:
    its tensors are compared as well, and the logits are those of model and adapter together. `tokenizer` and `edits`
    are what the conversion was told.

    What a check finds wrong is in the result, not an exception; so is
    what it could not do (no torch, no spec of ours for the architecture).

    Raises:
        GgufFileError: the model is no GGUF file, or is malformed.
        CheckpointError: there is no checkpoint, or it cannot be read.
        UsageError: `skip` names no check.
    """
    if unknown := set(skip) - {*CHECKS, "adapter"}:
        raise UsageError(f"no check is called {', '.join(sorted(unknown))}", hint=f"there are {', '.join(CHECKS)}")
    started = time.monotonic()
    parts = read_fit_parts(model)
    architecture = parts[0].metadata.get("general.architecture")
    if not isinstance(architecture, str):
        raise GgufFileError(f"{model} is not a model: it has no key 'general.architecture'")
    with open_checkpoint(checkpoint) as opened:
        predicts = any(".nextn." in tensor.name for part in parts for tensor in part.tensors)
        plan, reason = _plan(opened, mtp=predicts, tokenizer=tokenizer, edits=edits)
        sourced = _sourced(opened, mtp=predicts) if plan and opened.quantization else None
        mismatch = None if plan else _other_architecture(opened, architecture)
        where = tokenizer.folder if tokenizer and tokenizer.folder else checkpoint

        def planned(name: str, check: Callable[[ConversionPlan], Check]) -> Check:
            if mismatch:
                return Check(name, Grade.FAILED, mismatch, (reason,))
            return check(plan) if plan else Check(name, Grade.SKIPPED, reason)

        doings: dict[str, Callable[[], Check]] = {
            "metadata": lambda: planned(metadata.NAME, lambda it: metadata.check_metadata(it, parts)),
            "tokens": lambda: tokens.check_tokens(model, where, parts),
            "chat-template": lambda: chat_templates.check_chat_template(where, parts),
            "tensors": lambda: planned(
                tensors.NAME,
                lambda it: tensors.check_tensors(
                    it, parts, sourced=sourced, threads=threads or usable_cores(), progress=progress
                ),
            ),
            "logits": lambda: logits.check_logits(
                model, opened, parts, tokens=prompt_tokens, threads=threads, lora=lora, progress=progress
            ),
        }
        if lora:
            doings = {"adapter": lambda: adapters.check_adapter(*lora, checkpoint, parts), **doings}
        checks = []
        for name, do in doings.items():
            if name in skip:
                checks.append(Check(name.replace("-", " "), Grade.SKIPPED, "as asked"))
                continue
            progress(f"Checking {name.replace('-', ' ')}", 0, 0, "steps")
            checks.append(do())
    return Verification(model, checkpoint, architecture, tuple(checks), time.monotonic() - started)


def _other_architecture(checkpoint: Checkpoint, architecture: str) -> str | None:
    """Say that a checkpoint, of which there is no plan, is of another architecture than the file, if it is known."""
    try:
        spec = spec_for(checkpoint.config.architecture, checkpoint.config.model_type)
    except CheckpointError:
        return None
    if spec.name == architecture:
        return None
    return f"the file is of the architecture {architecture!r}, the checkpoint of {spec.name!r}"


def _sourced(checkpoint: Checkpoint, *, mtp: bool) -> ConversionPlan:
    """Plan the conversion that keeps the blocks of whoever quantized the checkpoint."""
    spec = spec_for(checkpoint.config.architecture, checkpoint.config.model_type)
    return make_plan(checkpoint, spec, OutputType.SOURCE, mtp=mtp, description={}, keep=Keep.ALL)


def _plan(
    checkpoint: Checkpoint, *, mtp: bool, tokenizer: TokenizerOptions | None, edits: MetadataEdits | None
) -> tuple[ConversionPlan | None, str]:
    """Plan the conversion to F32, in which nothing is lost; or say why there is no plan.

    Where only the tokenizer stands in the way, there is a plan of the tensors without it.
    """
    try:
        spec = spec_for(checkpoint.config.architecture, checkpoint.config.model_type)
        try:
            return make_plan(checkpoint, spec, OutputType.F32, mtp=mtp, tokenizer=tokenizer, edits=edits), ""
        except CheckpointError:
            return make_plan(checkpoint, spec, OutputType.F32, mtp=mtp, description={}, edits=edits), ""
    except CheckpointError as error:
        return None, str(error)
