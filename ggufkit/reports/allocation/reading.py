"""What `ggufkit optimize --json` wrote, read back and checked."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ggufkit.errors import InputError

SCHEMA_VERSION = 1
KIND = "allocation"


@dataclass(frozen=True, slots=True)
class Point:
    """A size in bytes and the divergence foretold for it, in nats; `preset` is None for chosen types."""

    bytes: int
    bits_per_weight: float
    predicted: float
    preset: str | None


@dataclass(frozen=True, slots=True)
class Candidate:
    """What was measured of one choice of types (nats), and foretold: by probes alone, and in the end."""

    name: str
    bytes: int
    is_preset: bool
    predicted_by_probes: float | None
    predicted: float | None
    measured: float
    tail: float | None
    same_top: float | None


@dataclass(frozen=True, slots=True)
class File:
    """One file that was made, the types of its tensors, and those of the preset of that size."""

    target: str
    output: str
    bytes: int
    budget: int
    bits_per_weight: float
    chosen: Candidate
    preset: Candidate | None
    candidates: Sequence[Candidate]
    types: Mapping[str, str]
    preset_types: Mapping[str, str]
    is_clear: bool
    refined: Sequence[tuple[str, bool, str | None]]  # tensor, accepted, why not


@dataclass(frozen=True, slots=True)
class Text:
    """One of the texts: what it was for, its hash and length; `chunks` of `chunk_tokens` were read of it."""

    use: str
    sha256: str
    tokens: int
    chunks: int
    chunk_tokens: int


@dataclass(frozen=True, slots=True)
class Shared:
    """How much (0 to 1) of the text `within` is in the text `of` too."""

    of: str
    within: str
    share: float


@dataclass(frozen=True, slots=True)
class Allocation:
    """One result of `ggufkit optimize`; `raw` is the document as it was read."""

    source: str
    model: str
    model_bytes: int
    weights: Mapping[str, int]
    files: Sequence[File]
    frontier: Sequence[Point]
    texts: Sequence[Text]
    shared: Sequence[Shared]
    limit: float
    costs: Mapping[str, tuple[float, str]]  # of each tensor: nats, and the type that they are for
    compared: Sequence[tuple[str, float, float]]  # group, foretold by a backward pass, probed
    raw: Mapping[str, Any]


def read_allocation(text: str, path: Path) -> Allocation | None:
    """Take what a file holds if it is a result of `ggufkit optimize`, else None.

    Raises:
        InputError: it is one, but of a schema that is not known here, or malformed; or it is that of a dry run.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if isinstance(document, dict) and document.get("dry_run") is True and "estimate" in document:
        raise InputError(f"{path} is what a dry run of ggufkit optimize printed", hint="leave out --dry-run")
    if not isinstance(document, dict) or document.get("kind") != KIND:
        return None
    return allocation_of(document, path.name)


def allocation_of(document: Mapping[str, Any], source: str) -> Allocation:
    """Take a result as it was written.

    Raises:
        InputError: it has a schema that is not known here, or is malformed.
    """
    version = document.get("schema_version")
    if version != SCHEMA_VERSION:
        raise InputError(f"{source} has the schema version {version}, and this ggufkit reads {SCHEMA_VERSION}")
    try:
        overlap = document["overlap"]
        return Allocation(
            source=source,
            model=Path(str(document["source"])).name or str(document["source"]),
            model_bytes=int(document["model"]["bytes"]),
            weights={str(name): int(count) for name, count in document["tensors"].items()},
            files=[_file(each) for each in document["results"]],
            frontier=[
                Point(
                    int(it["bytes"]), float(it["bits_per_weight"]), _nats(it["predicted"]) or 0.0, _words(it["preset"])
                )
                for it in document["frontier"]
            ],
            texts=[
                Text(str(it["use"]), str(it["sha256"]), int(it["tokens"]), int(it["chunks"]), int(it["chunk_tokens"]))
                for it in document["texts"]
            ],
            shared=[Shared(str(it["of"]), str(it["within"]), float(it["share"])) for it in overlap["found"]],
            limit=float(overlap["limit"]),
            costs={str(it["tensor"]): (_nats(it["cost"]) or 0.0, str(it["type"])) for it in document["sensitivities"]},
            compared=[
                (str(it["name"]), _nats(it["foretold"]) or 0.0, _nats(it["measured"]) or 0.0)
                for it in document["compared"]
            ],
            raw=document,
        )
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError, StopIteration) as error:
        raise InputError(f"{source} is malformed: {type(error).__name__} {error}") from None


def _file(it: Mapping[str, Any]) -> File:
    candidates = [_candidate(each) for each in it["candidates"]]
    by_name = {each.name: each for each in candidates}
    refined = [(str(each["tensor"]), each["accepted"] is True, _words(each.get("reason"))) for each in it["refined"]]
    return File(
        target=str(it["target"]),
        output=Path(str(it["output"])).name,
        bytes=int(it["bytes"]),
        budget=int(it["budget"]),
        bits_per_weight=float(it["bits_per_weight"]),
        chosen=by_name[str(it["chosen"])],
        preset=by_name[str(it["preset"])] if it["preset"] is not None else None,
        candidates=candidates,
        types={str(name): str(kind) for name, kind in it["tensors"].items()},
        preset_types={str(name): str(kind) for name, kind in it["preset_tensors"].items()},
        is_clear=bool((it["difference"] or {}).get("is_clear", False)),
        refined=refined,
    )


def _candidate(it: Mapping[str, Any]) -> Candidate:
    return Candidate(
        name=str(it["name"]),
        bytes=int(it["bytes"]),
        is_preset=it["is_preset"] is True,
        predicted_by_probes=_nats(it["predicted_by_probes"]),
        predicted=_nats(it["predicted_kld"]),
        measured=float(it["mean_kld"]),
        tail=_nats(it["kld_999"]),
        same_top=_nats(it["same_top"]),
    )


def _words(value: Any) -> str | None:
    return None if value is None else str(value)


def _nats(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)
