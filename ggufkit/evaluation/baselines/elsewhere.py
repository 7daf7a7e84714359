"""Results that were measured on other machines, as JSON: read strictly, so that no wrong figure gets into a table.

docs/baseline-results.md describes the format. Sizes are in bytes, speeds in tokens per second, divergences in nats.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ggufkit.errors import InputError
from ggufkit.evaluation.answers.tasks import TaskResult, accuracy_of
from ggufkit.evaluation.baselines.results import BaselineResult, Footprint, Origin, Rate
from ggufkit.evaluation.likelihood.statistics import Estimate, Likelihood
from ggufkit.evaluation.likelihood.texts import Chunks

SCHEMA_VERSION = 1
KIND = "baseline-results"
_LARGEST_FILE = 16 << 20
_DOCUMENTATION = "docs/baseline-results.md describes the format"


def read_results(path: Path, chunks: Chunks | None = None) -> list[BaselineResult]:
    """Read a file of results; `chunks` is the text of this evaluation, to see whether theirs was the same.

    Raises:
        InputError: it cannot be read, is of a schema that is not known here, or a value is not what it must be.
    """
    try:
        if path.stat().st_size > _LARGEST_FILE:
            raise InputError(f"{path} is too large for results ({path.stat().st_size:,} bytes)")
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise InputError(f"{path} is not JSON: {error}", hint=_DOCUMENTATION) from None
    top = _Reader(path, "", document)
    top.only({"schema_version", "kind", "results"})
    if top.text("kind") != KIND:
        raise top.wrong("kind", f'"{KIND}"')
    if top.get("schema_version") != SCHEMA_VERSION:
        raise top.wrong("schema_version", f"{SCHEMA_VERSION}, which is what this ggufkit reads")
    found = [_result(each, chunks) for each in top.objects("results")]
    if not found:
        raise top.wrong("results", "at least one result")
    return found


def _result(it: "_Reader", chunks: Chunks | None) -> BaselineResult:
    it.only(
        {"name", "title", "device", "measured", "notes", "versions", "disk_bytes", "weight_bytes", "loaded_bytes"}
        | {"peak_bytes", "load_seconds", "prepare_seconds", "prompt", "generation", "text", "perplexity"}
        | {"kl_divergence", "tasks"}
    )
    prompt, generation = it.inside("prompt"), it.inside("generation")
    read, apart = _likelihood(it), _kl_divergence(it)
    if (read or apart) and it.inside("text") is None:
        raise it.wrong("text", "what was read, when there is a perplexity or a divergence")
    measured = it.optional_text("measured")
    notes = [text for text in (it.optional_text("notes"), f"measured {measured}" if measured else None) if text]
    return BaselineResult(
        name=it.text("name"),
        title=it.optional_text("title") or it.text("name"),
        origin=Origin.ELSEWHERE,
        device=it.text("device"),
        versions=it.texts("versions"),
        source=it.path.name,
        notes="; ".join(notes) or None,
        footprint=Footprint(
            disk_bytes=it.count("disk_bytes"),
            weight_bytes=it.count("weight_bytes"),
            loaded_bytes=it.count("loaded_bytes"),
            peak_bytes=it.count("peak_bytes"),
            load_seconds=it.number("load_seconds"),
            prepare_seconds=it.number("prepare_seconds"),
            prompt_tokens=prompt.count("tokens") if prompt else None,
            prompt=_rate(prompt),
            generated_tokens=generation.count("tokens") if generation else None,
            generation=_rate(generation),
        ),
        likelihood=read,
        mean_kld=apart,
        same_text=_is_same_text(it.inside("text"), chunks),
        tasks=[_task(each) for each in it.objects("tasks")],
    )


def _rate(it: "_Reader | None") -> Rate | None:
    if it is None:
        return None
    it.only({"tokens", "samples"})
    samples = it.get("samples")
    if not isinstance(samples, list) or not samples or not all(_is_number(each) and each > 0 for each in samples):
        raise it.wrong("samples", "a list of positive numbers, tokens per second")
    return Rate.of([float(each) for each in samples])


def _likelihood(it: "_Reader") -> Likelihood | None:
    inside = it.inside("perplexity")
    if inside is None:
        return None
    inside.only({"value", "standard_error", "tokens"})
    value = inside.number("value")
    if value is None or value < 1:
        raise inside.wrong("value", "a number of at least 1")
    return Likelihood(Estimate(value, inside.number("standard_error") or 0.0), inside.count("tokens") or 0)


def _kl_divergence(it: "_Reader") -> Estimate | None:
    inside = it.inside("kl_divergence")
    if inside is None:
        return None
    inside.only({"mean", "standard_error"})
    mean = inside.number("mean")
    if mean is None:
        raise inside.wrong("mean", "a number, nats per token")
    return Estimate(mean, inside.number("standard_error") or 0.0)


def _is_same_text(it: "_Reader | None", chunks: Chunks | None) -> bool:
    """Whether the same texts were read, cut alike, in the same order."""
    if it is None:
        return False
    it.only({"sha256", "chunk_tokens", "chunks"})
    hashes = it.get("sha256")
    if not isinstance(hashes, list) or not all(isinstance(each, str) and len(each) == 64 for each in hashes):
        raise it.wrong("sha256", "a list of the SHA-256 of each text, in hexadecimal")
    told = (hashes, it.count("chunk_tokens"), it.count("chunks"))
    if chunks is None:
        return False
    return told == ([domain.sha256 for domain in chunks.domains], chunks.length, len(chunks.tokens))


def _task(it: "_Reader") -> TaskResult:
    it.only({"task", "right", "questions"})
    right, questions = it.count("right"), it.count("questions")
    if right is None or not questions or right > questions:
        raise it.wrong("right", "a number of questions, at most as many as `questions`")
    share = accuracy_of(right, questions)
    return TaskResult(it.text("task"), share, {}, (), None, None, None)


_LARGEST_COUNT = 2**63 - 1


class _Reader:
    """A JSON object at a place of a file; what it holds is checked when it is asked for."""

    def __init__(self, path: Path, place: str, value: Any) -> None:
        self.path = path
        self._place = place
        if not isinstance(value, Mapping):
            raise InputError(f"{path}: {place or 'the document'} must be an object", hint=_DOCUMENTATION)
        self._value = value

    def get(self, name: str) -> Any:
        return self._value.get(name)

    def wrong(self, name: str, expected: str) -> InputError:
        """Make the error for a value: where it is, what it is and what it must be."""
        there = json.dumps(self._value[name], ensure_ascii=False) if name in self._value else "missing"
        return InputError(f"{self.path}: {self._at(name)} is {there[:80]}, expected {expected}", hint=_DOCUMENTATION)

    def only(self, names: set[str]) -> None:
        """Refuse names that nobody knows: they are spelling mistakes, whose figure would be lost."""
        for name in self._value:
            if name not in names:
                raise InputError(
                    f"{self.path}: {self._at(str(name))} is not known; known are {', '.join(sorted(names))}",
                    hint=_DOCUMENTATION,
                )

    def text(self, name: str) -> str:
        value = self.get(name)
        if not isinstance(value, str) or not value.strip():
            raise self.wrong(name, "a text")
        return value

    def optional_text(self, name: str) -> str | None:
        return self.text(name) if self.get(name) is not None else None

    def texts(self, name: str) -> dict[str, str]:
        value = self.get(name)
        if value is None:
            return {}
        if not isinstance(value, Mapping) or not all(isinstance(each, str) for each in value.values()):
            raise self.wrong(name, "an object of texts")
        return dict(value)

    def number(self, name: str) -> float | None:
        value = self.get(name)
        if value is None:
            return None
        if not _is_number(value) or value < 0:
            raise self.wrong(name, "a number that is not negative")
        return float(value)

    def count(self, name: str) -> int | None:
        value = self.get(name)
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _LARGEST_COUNT:
            raise self.wrong(name, "a whole number that is not negative")
        return value

    def inside(self, name: str) -> "_Reader | None":
        return _Reader(self.path, self._at(name), self._value[name]) if self.get(name) is not None else None

    def objects(self, name: str) -> Sequence["_Reader"]:
        value = self.get(name)
        if value is None:
            return []
        if not isinstance(value, list):
            raise self.wrong(name, "a list")
        return [_Reader(self.path, f"{self._at(name)}[{number}]", each) for number, each in enumerate(value)]

    def _at(self, name: str) -> str:
        return f"{self._place}.{name}" if self._place else name


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= sys.float_info.max  # not NaN, and no integer that no float can hold
