"""Every check of a checkpoint folder, as a list of what is wrong with it: could it be converted, and would it load?"""

from pathlib import Path

from ggufkit.architectures import spec_for
from ggufkit.checkpoints import check as checkpoint_check
from ggufkit.checkpoints import open_checkpoint
from ggufkit.conversion.plan import OutputType, make_plan
from ggufkit.errors import GgufkitError, MissingDependencyError, UnsupportedArchitectureError
from ggufkit.findings import Finding, Severity, worst
from ggufkit.llamacpp.converter import code_in
from ggufkit.progress import Progress, silent


def check_checkpoint(folder: Path, *, weights: bool = False, progress: Progress = silent) -> list[Finding]:
    """Check a checkpoint folder as far as that goes without running anything of it.

    Links and sizes of the files, config.json, index and shards, then everything that a conversion decides before it
    reads weights: names and shapes of all tensors, the tokenizer, the chat template's text. With `weights` they are
    read as well (see `ggufkit.checkpoints.check`). Whatever is wrong is a finding, not an exception.

    Raises:
        MissingDependencyError: the weights are `.bin` and torch is not installed.
    """
    found = [*_code(folder), *checkpoint_check.check_checkpoint(folder, weights=weights, progress=progress)]
    return found if worst(found) >= Severity.UNFIT else [*found, *_plan(folder)]


def _code(folder: Path) -> list[Finding]:
    try:
        code = code_in(folder) if folder.is_dir() else []
    except (GgufkitError, OSError):
        return []  # a file that cannot be read: whoever reads it in earnest says so
    what = f"brings code, which is never run: {', '.join(code[:5])}{', …' if len(code) > 5 else ''}"
    return [Finding(Severity.NOTE, what, str(folder))] if code else []


def _plan(folder: Path) -> list[Finding]:
    try:
        with open_checkpoint(folder) as checkpoint:
            spec = spec_for(checkpoint.config.architecture, checkpoint.config.model_type)
            plan = make_plan(checkpoint, spec, OutputType.F16)
    except MissingDependencyError:
        raise
    except UnsupportedArchitectureError as error:
        return [Finding(Severity.WARNING, str(error), str(folder / "config.json"), error.hint)]
    except GgufkitError as error:
        return [Finding.of_error(error, str(folder))]
    return [Finding(Severity.WARNING, warning, str(folder)) for warning in plan.warnings]
