"""Whether a model is fit to be used: every check there is, of a GGUF file with all its parts or a checkpoint folder."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ggufkit.errors import GgufFileError, LlamaCppError, MissingDependencyError
from ggufkit.findings import Finding, Severity, worst
from ggufkit.fitness import check_headers, is_run
from ggufkit.gguf_file.parts import read_parts
from ggufkit.gguf_file.reader import GgufHeader, TensorInfo
from ggufkit.gguf_file.windowed_file import opened
from ggufkit.inspection.gguf import TEMPLATE, inspect_gguf
from ggufkit.progress import Progress, silent

_PIECE = 4 << 20
_SMALL = 1 << 30  # bytes: llama.cpp computes a token with such a model; a larger one is laid out only
_NOT_WRONG = ("no chat template", "the padding token", "the mask token", "the seperator token")


@dataclass(frozen=True, slots=True)
class CheckResult:
    """What was found. `kind` is "gguf" or "checkpoint"; `weights` says whether they were looked at."""

    path: Path
    kind: str
    weights: bool
    findings: tuple[Finding, ...]

    @property
    def severity(self) -> Severity:
        """The worst that was found."""
        return worst(self.findings)

    @property
    def is_fit(self) -> bool:
        """Whether the model can be used as it is."""
        return self.severity < Severity.UNFIT


def check(path: Path | str, *, weights: bool = True, progress: Progress = silent) -> CheckResult:
    """Check a GGUF file (of a split model, all parts) or a checkpoint folder; whatever is wrong is a finding.

    Container, what the model says of itself, vocabulary, chat template, then llama.cpp is asked in a process of its
    own, and with `weights` every block of every tensor is looked at. Of folders nothing is run.

    Raises:
        MissingDependencyError: llama.cpp is not built.
    """
    path = Path(path)
    if path.is_dir():
        from ggufkit.conversion.check import check_checkpoint

        found = check_checkpoint(path, weights=weights, progress=progress)
        return CheckResult(path, "checkpoint", weights, tuple(found))
    return CheckResult(path, "gguf", weights, tuple(_check_gguf(path, weights, progress)))


def _check_gguf(path: Path, weights: bool, progress: Progress) -> list[Finding]:
    try:
        headers = read_parts(path)
        found = list(check_headers(headers))
        if worst(found) < Severity.UNFIT:
            found += _inspected(path, {finding.where for finding in found})
            found += _template(path, headers[0])
            if is_run(headers[0]):
                found += _tried(path, headers)
            else:
                kind = headers[0].metadata.get("general.type", headers[0].metadata.get("general.architecture"))
                found.append(Finding(Severity.NOTE, f"is no model of its own, but of the kind {kind!r}", str(path)))
        if weights:
            found += _weights(headers, progress)
    except GgufFileError as error:
        return [Finding.of_error(error, str(path))]
    return found


def _inspected(path: Path, said: Iterable[str]) -> Iterator[Finding]:
    for warning in inspect_gguf(path).warnings:
        if not any(f"the {key.removeprefix('tokenizer.ggml.').partition('_')[0]} token" in warning for key in said):
            severity = Severity.NOTE if warning.startswith(_NOT_WRONG) else Severity.WARNING
            yield Finding(severity, warning, str(path))


# Such a template was made for other conversations, as those that want tools; llama.cpp loads the model anyway.
_FOR_OTHERS = ("refuses the conversation", "is undefined", "'NoneType' object is not iterable")
_DRAFTS = ("gemma4-assistant", "eagle3", "dflash")  # they run beside the model that they draft for, never alone


def _template(path: Path, header: GgufHeader) -> Iterator[Finding]:
    from ggufkit.inspection.preview import preview

    if TEMPLATE not in header.metadata.entries:
        return
    if not isinstance(header.metadata[TEMPLATE], str):
        yield Finding(Severity.UNFIT, "is not a text", TEMPLATE)
        return
    shown = preview(path)
    for warning in shown.warnings:
        # What a template refuses to render may be a conversation that it was not made for.
        broken = "cannot be rendered" in warning and not any(said in warning for said in _FOR_OTHERS)
        yield Finding(Severity.UNFIT if broken else Severity.WARNING, warning, TEMPLATE)


def _tried(path: Path, headers: Sequence[GgufHeader]) -> Iterator[Finding]:
    from ggufkit.llamacpp import load_check

    if not any(header.tensors for header in headers):
        yield Finding(Severity.WARNING, "holds a vocabulary and no weights", str(path))
        return
    size = sum(header.file_size for header in headers)
    try:
        draft = headers[0].metadata.get("general.architecture") in _DRAFTS
        reason = load_check.refusal(path, "load" if draft else "run" if size <= _SMALL else "plan")
    except MissingDependencyError:
        raise
    except LlamaCppError as error:
        yield Finding(Severity.UNFIT, str(error), "llama.cpp")
        return
    if reason:
        yield Finding(Severity.UNFIT, f"cannot load it: {reason}", "llama.cpp", "get the model from its source again")


def _weights(headers: Sequence[GgufHeader], progress: Progress) -> Iterator[Finding]:
    """Look at every block: numbers that are none, in the weights or in the scales of quantized ones."""
    import numpy as np

    from ggufkit.llamacpp import ggml

    library = ggml.load()
    if library is None:
        return
    total, done = sum(header.tensor_bytes for header in headers), 0
    room = np.empty(_PIECE, np.uint8)
    for header in headers:
        with opened(header.path) as file:
            for tensor in header.tensors:
                for start, size in _pieces(tensor):
                    content = room[:size]
                    if os.preadv(file.descriptor, [content.data], tensor.offset + start) != size:
                        raise GgufFileError(f"{header.path} became shorter while it was read (at {tensor.name!r})")
                    done += size
                    progress("Checking", done, total)
                    if not library.is_valid(content, int(tensor.type)):
                        yield Finding(
                            Severity.UNFIT,
                            f"holds what is not finite, near byte {tensor.offset + start:,} of the file",
                            tensor.name,
                            "get the model from its source again",
                        )
                        done += tensor.size - start - size
                        break
            if not header.metadata.is_of(os.fstat(file.descriptor)):
                raise GgufFileError(f"{header.path} has changed while it was read")


def _pieces(tensor: TensorInfo) -> Iterator[tuple[int, int]]:
    block = tensor.type.block_bytes
    step = _PIECE // block * block
    for start in range(0, tensor.size, step):
        yield start, min(step, tensor.size - start)
