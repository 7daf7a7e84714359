"""Malformed config.json and tokenizer files: a conversion is refused in one line, or gives what llama.cpp survives."""

import time
from pathlib import Path

import folder_mutants

from ggufkit.conversion import convert, convert_vocabulary
from ggufkit.conversion.check import check_checkpoint
from ggufkit.errors import GgufkitError, LlamaCppError
from ggufkit.inspection.checkpoint import inspect_checkpoint
from ggufkit.llamacpp.load_check import refusal
from soak import Row, Trial

_HANG = 20.0  # seconds of the processor, a hundred times what a tiny model takes


def _measure(trial: Trial) -> None:
    good = folder_mutants.bases(trial.folder / "good")
    folder, whole, vocabulary = (trial.folder / name for name in ("model", "whole.gguf", "vocabulary.gguf"))
    for case in trial.cases():
        what = folder_mutants.mutant(good, folder, trial.random(case))
        for look in (inspect_checkpoint, check_checkpoint):
            try:
                look(folder)
            except GgufkitError:
                pass
            except Exception as error:  # noqa: BLE001 - this is what must not come
                trial.broken(case, f"{what}: {look.__name__}: {type(error).__name__}: {error}"[:400])
        for output, job in ((vocabulary, convert_vocabulary), (whole, convert)):
            output.unlink(missing_ok=True)
            started = time.process_time()  # of the clock, whatever else the machine does would be part
            try:
                job(folder, output)
            except GgufkitError:
                trial.add("refused")
                if output.exists():
                    trial.broken(case, f"{what}: refused, but {output.name} was written")
            except Exception as error:  # noqa: BLE001 - this is what must not come
                trial.broken(case, f"{what}: {type(error).__name__}: {error}"[:400])
            trial.took("seconds", time.process_time() - started, limit=_HANG)
        if whole.exists():
            _load(trial, case, whole, what)


def _load(trial: Trial, case: int, model: Path, what: str) -> None:
    try:
        reason = refusal(model, "run")
    except LlamaCppError as error:
        trial.broken(case, f"{what}: converted, and llama.cpp died: {error}"[:500])
        return
    trial.add("converted, and computes" if reason is None else "converted, and llama.cpp refuses it")
    if reason is not None:
        trial.broken(case, f"{what}: converted, and llama.cpp refuses: {reason}"[:400])


ROWS = [
    Row(
        "folder-mutants",
        "5,000 model folders with malformed config or tokenizer files, converted",
        "0 tracebacks, hangs, outputs that llama.cpp refuses or dies on",
        _measure,
        count=5_000,
        quick=30,
        engine=True,
    )
]
