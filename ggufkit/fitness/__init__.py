"""Whether a GGUF model is fit to be given to llama.cpp: what its headers say, held against what llama.cpp asserts.

The container may be sound and still lie about the model in it. llama.cpp throws on some lies, which is an error like
any other; others it asserts, which ends the process, or believes. Only those two kinds are looked for here, and only
where llama.cpp itself could not run such a model: everything else is left for it to say.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

from ggufkit.errors import GgufFileError
from ggufkit.findings import Finding, Severity
from ggufkit.fitness.sizes import check_sizes
from ggufkit.fitness.tensors import check_tensors
from ggufkit.fitness.vocabulary import check_vocabulary
from ggufkit.gguf_file.parts import read_parts
from ggufkit.gguf_file.reader import GgufHeader

__all__ = ["check_headers", "is_run", "read_fit_parts", "refuse_unfit"]

_BESIDE_A_MODEL = ("clip", "controlvector")  # encoders of images and sounds, directions: loaded by other rules


def check_headers(headers: Sequence[GgufHeader]) -> Iterator[Finding]:
    """Find what is wrong with a model, given the headers of all its parts in order (one, unless it is split)."""
    first = headers[0]
    if not is_run(first):
        return
    architecture = first.metadata.get("general.architecture")
    if not isinstance(architecture, str) or not architecture.isprintable() or not architecture:
        said = "missing" if architecture is None else ascii(architecture)[:60]
        yield Finding(Severity.UNFIT, f"is {said}, but must be a name", "general.architecture")
        return
    yield from check_sizes(first, architecture, {tensor.name for header in headers for tensor in header.tensors})
    yield from check_vocabulary(first)
    for header in headers:
        yield from check_tensors(header)


def is_run(header: GgufHeader) -> bool:
    """Tell whether this is a model of its own: no adapter, no importance matrix, no encoder of images beside one."""
    said = [
        header.metadata.get(f"general.{key}", default) for key, default in (("architecture", ""), ("type", "model"))
    ]
    return said[0] not in _BESIDE_A_MODEL and said[1] == "model"


def read_fit_parts(path: Path) -> list[GgufHeader]:
    """Read the headers of all parts of a model, as `read_parts`, and refuse one that is unfit.

    Raises:
        GgufFileError: a file is missing or malformed, or the model is unfit.
    """
    headers = read_parts(path)
    refuse_unfit(headers)
    return headers


def refuse_unfit(headers: Sequence[GgufHeader]) -> None:
    """Refuse a model that llama.cpp would die on, or compute nonsense with.

    Raises:
        GgufFileError: naming the key or tensor, what it is and what it must be.
    """
    for finding in check_headers(headers):
        if finding.severity >= Severity.UNFIT:
            raise GgufFileError(f"{headers[0].path}: {finding.where} {finding.what}", hint=finding.hint)
