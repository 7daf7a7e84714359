"""Whether the texts that models are measured on are ones that they were calibrated with, as far as that can be known.

Known are the files that are named by hand, and those that the models' files name (`quantize.imatrix.dataset`, which
llama-quantize copies from the importance matrix), where they still are there.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ggufkit.errors import InputError
from ggufkit.evaluation.likelihood.texts import Chunks
from ggufkit.evaluation.overlap import Overlap, overlaps
from ggufkit.quantization.calibration import read_passages

_CHATS = {".jsonl", ".ndjson", ".json"}


@dataclass(frozen=True, slots=True)
class CalibrationCheck:
    """What was found out.

    Attributes:
        checked: the calibration texts that were compared.
        overlaps: of each pair of texts that share passages, how much; calibration texts are `of`, texts read `within`.
        not_here: of models that name a calibration text which is not here, its name.
    """

    checked: tuple[str, ...] = ()
    overlaps: tuple[Overlap, ...] = ()
    not_here: Mapping[str, str] = field(default_factory=dict)

    @property
    def warnings(self) -> list[str]:
        """What whoever reads the figures must know."""
        return [
            f"{overlap}, which a model was calibrated with: on it, models look better than they are"
            for overlap in self.overlaps
            if overlap.is_too_much
        ]

    @property
    def remarks(self) -> list[str]:
        """What could not be checked."""
        return [
            f"{model} was calibrated with {text}, which is not here: --calibration FILE checks that it shares nothing"
            for model, text in self.not_here.items()
        ]


def find_calibration(named: Sequence[Path], told: Mapping[Path, str | None]) -> tuple[list[Path], dict[str, str]]:
    """Find the calibration texts: those that are named, and those that models tell of, where they are.

    `told` maps models to what their files say. Also returns, by model, the names of those that are not here.

    Raises:
        InputError: one that is named is not there.
    """
    for path in named:
        if not path.is_file():
            raise InputError(f"no such calibration text: {path}")
    found, missing = list(named), {}
    for model, text in told.items():
        if text is None:
            continue
        places = (Path(text), model.parent / Path(text).name)
        here = next((place for place in places if place.is_file()), None)
        if here is not None:
            found.append(here)
        elif Path(text).name not in {path.name for path in named}:
            missing[model.name] = text
    return list({path.resolve(): path for path in found}.values()), missing


def check_calibration(
    chunks: Chunks,
    calibration: Sequence[Path],
    not_here: Mapping[str, str],
    folder: Path,
    tokenize: Callable[[Sequence[Path]], Sequence[NDArray[np.int32]]],
) -> CalibrationCheck:
    """Compare what is read with the calibration texts, in windows of tokens; plain forms of chats lie in `folder`.

    Raises:
        InputError: a text cannot be read.
        As `tokenize`.
    """
    if not calibration:
        return CalibrationCheck(not_here=not_here)
    plain = [_plain(path, number, folder) for number, path in enumerate(calibration)]
    used = {str(path): tokens for path, tokens in zip(calibration, tokenize(plain), strict=True)}
    read = {
        domain.name: np.asarray(chunks.tokens[chunks.of_domain(domain.name)], np.int32).reshape(-1)
        for domain in chunks.domains
    }
    return CalibrationCheck(tuple(used), overlaps(used, read), not_here)


def _plain(path: Path, number: int, folder: Path) -> Path:
    """Write a file of chats as text: their JSON has other tokens than what was said in them."""
    if path.suffix.lower() not in _CHATS:
        return path
    plain = folder / f"calibration-{number}.txt"
    plain.write_text("\n\n".join(read_passages([path]).texts), encoding="utf-8")
    return plain
