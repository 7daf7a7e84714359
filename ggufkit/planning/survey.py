"""All types at once: what llama-quantize would make of a model with each, several dry runs at a time."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from ggufkit.errors import InputError, MissingDependencyError, UsageError
from ggufkit.llamacpp.cpu import usable_cores
from ggufkit.planning.subject import Subject
from ggufkit.quantization.plan import QuantizationPlan, QuantizeOptions, Stand, plan
from ggufkit.quantization.types import QuantizationType

_QUANTIZED = "it is quantized already, and quantizing it again loses more than from F16; --allow-requantize plans it"


@dataclass(frozen=True, slots=True)
class Surveyed:
    """What a type would make of a model; `plan` is None where it cannot be, and `refusal` says why."""

    type: QuantizationType
    plan: QuantizationPlan | None
    needs_imatrix: bool = False  # and none is given: the plan assumes one that covers everything
    refusal: str | None = None


def survey(subject: Subject, kinds: Sequence[QuantizationType], options: QuantizeOptions) -> tuple[Surveyed, ...]:
    """Plan every type; what forbids one is told in its place.

    A type that needs an importance matrix is planned as if there were one, without the few bytes that name it.

    Raises:
        LlamaCppError: llama-quantize died.
        MissingDependencyError: llama.cpp is not built.
    """
    stand_in = _imatrix_stand_in(subject)

    def one(kind: QuantizationType) -> Surveyed:
        assumed = kind.needs_imatrix and options.imatrix is None
        stand = Stand(subject.bare, stand_in if assumed else None)
        try:
            found = plan(subject.file, kind, options, headers=subject.headers, stand=stand)
            if assumed and not found.needs_imatrix:  # as where every tensor falls back: then none is asked for
                assumed = False
                found = plan(subject.file, kind, options, headers=subject.headers, stand=Stand(subject.bare))
        except MissingDependencyError:
            raise
        except (UsageError, InputError) as error:
            again = subject.is_quantized and not options.allow_requantize
            return Surveyed(kind, None, refusal=_QUANTIZED if again else str(error))
        return Surveyed(kind, found, needs_imatrix=assumed)

    with ThreadPoolExecutor(usable_cores()) as pool:
        return tuple(pool.map(one, kinds))


def _imatrix_stand_in(subject: Subject) -> Path:
    """Write an importance matrix without importance: dry runs ask only whether there is one."""
    from gguf import GGMLQuantizationType

    from ggufkit.gguf_file.writer import lay_out

    layout = lay_out(
        "imatrix",
        {
            "general.type": "imatrix",
            "imatrix.datasets": ["none"],
            "imatrix.chunk_count": 1,
            "imatrix.chunk_size": 512,
        },
        [
            ("none.in_sum2", (1, 1), GGMLQuantizationType.F32),
            ("none.counts", (1, 1), GGMLQuantizationType.F32),
        ],
    )
    path = subject.bare.with_name("imatrix.gguf")
    with path.open("wb") as file:
        file.write(layout.header)
        file.truncate(layout.size)
    return path
