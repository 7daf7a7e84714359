"""What running each of several models takes, as `ggufkit plan` knows it: asked once for those of the same shape."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ggufkit.planning.memory import MemoryModel
    from ggufkit.planning.subject import Subject


def memory_needs(models: Sequence[Path]) -> list[dict[str, int] | None]:
    """Return bytes for a context as `ggufkit chat` has it, by part; None where libllama does not tell.

    `weights` is the file, mapped; `repacked` what the CPU holds of it a second time; `process` all that is no model's.
    """
    from ggufkit.errors import GgufkitError
    from ggufkit.planning.subject import opened

    asked: dict[object, tuple[MemoryModel, int]] = {}
    found: list[dict[str, int] | None] = []
    for model in models:
        try:
            with opened(str(model)) as subject:
                found.append(_of(subject, asked))
        except GgufkitError:
            found.append(None)
    return found


def _of(subject: "Subject", asked: "dict[object, tuple[MemoryModel, int]]") -> dict[str, int] | None:
    from ggufkit.llamacpp.memory import Setting
    from ggufkit.planning import memory
    from ggufkit.planning.plan import DEFAULT_CONTEXT
    from ggufkit.quantization.plan import PlannedTensor

    tensors = [tensor for header in subject.headers for tensor in header.tensors]
    shape = (subject.architecture, *sorted((tensor.name, tensor.shape) for tensor in tensors))
    if shape not in asked:
        trained = subject.headers[0].metadata.get(f"{subject.architecture}.context_length")
        context = min(trained, DEFAULT_CONTEXT) if isinstance(trained, int) and trained > 0 else DEFAULT_CONTEXT
        asked[shape] = memory.ask(subject, [Setting(context)]), context
    answer, context = asked[shape]
    takes = answer.of(
        sum(header.file_size for header in subject.headers),
        [PlannedTensor(each.name, each.shape, each.type, each.type, each.size, each.size) for each in tensors],
    )
    if takes is None:
        return None
    return {
        "context_size": context,
        "weights": takes.file,
        "repacked": takes.repacked,
        "cache": takes.cache + takes.state,
        "compute": takes.compute,
        "process": takes.process,
    }
