"""What an adapter has to give: recipes of environments, baselines, and a model that is asked by token ids."""

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

TORCH = "2.13.0"


class CannotRunError(Exception):
    """This baseline cannot run here; the message says why, in a few words without a full stop."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """An environment.

    Attributes:
        name: a short name, that of the system.
        requirements: what pip installs beside torch, pinned (`package==1.2.3`).
        imports: modules whose import proves that the environment works.
        torch: the version of torch (a build for the CPU); empty: none.
        remove: distributions to uninstall afterwards.
        accepts: distributions that do as well when they are in the Python that runs ggufkit, each with the first
            version that is good and the first that is not any more, such as {"torch": ("2.6", "3")}; empty: none do.
    """

    name: str
    requirements: tuple[str, ...]
    imports: tuple[str, ...]
    torch: str = TORCH
    remove: tuple[str, ...] = ()
    accepts: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    @property
    def distributions(self) -> tuple[str, ...]:
        """The names of what it installs, torch first."""
        names = (re.split(r"[\[=<>~!; ]", requirement)[0] for requirement in self.requirements)
        return (*(("torch",) if self.torch else ()), *names)


@dataclass(frozen=True, slots=True)
class Baseline:
    """One way to run a model.

    Attributes:
        name: as in `--against NAME`: the system, then the type.
        title: for tables: the system and what it does to the weights.
        recipe: its environment.
        module: the module of this folder that runs it.
        variant: which of the module's ways it is.
        load_bytes: memory that loading takes at least, in bytes per weight: what would not fit is not tried.
        prepares: whether the module has `prepare`, to be run once before `load`.
    """

    name: str
    title: str
    recipe: Recipe
    module: str
    variant: str
    load_bytes: float
    prepares: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What the child is to do; all paths are absolute.

    Attributes:
        checkpoint: the folder of the model, as transformers reads it.
        module: the adapter.
        variant: which of its baselines.
        imports: modules to import first, so that loading the model is timed alone.
        distributions: packages whose versions are to be told.
        threads: how many the computation may use.
        work: a folder that `prepare` fills and `load` reads; empty at first.
        calibration: token ids to calibrate with, texts other than those that are scored; may be empty.
        vocabulary_size: how many logits count; a model may give more, for padding.
        output: where the answers go (JSON).
        bench_tokens: ids of the prompt whose reading is timed.
        bench_generated: how many tokens' generation is timed.
        repeats: how often both are; after once untimed.
        chunks: ids to compute logits of, [n][length]; `first` is the first position whose logits are wanted.
        done: how many chunks an earlier run has done.
        logits: where the logits of a chunk go, a number and `.f32` are appended; read and removed by the parent.
        prompts: ids to continue greedily, by `most` tokens unless one of `stops` comes.
        choices: (ids of a prompt, ids of each choice behind it) to weigh.
    """

    checkpoint: str
    module: str
    variant: str
    imports: Sequence[str] = ()
    distributions: Sequence[str] = ()
    threads: int
    work: str
    output: str
    vocabulary_size: int
    calibration: Sequence[Sequence[int]] = ()
    bench_tokens: Sequence[int] = ()
    bench_generated: int = 0
    repeats: int = 0
    chunks: Sequence[Sequence[int]] = ()
    first: int = 0
    done: int = 0
    logits: str = ""
    prompts: Sequence[Sequence[int]] = ()
    most: int = 0
    stops: Sequence[int] = ()
    choices: Sequence[tuple[Sequence[int], Sequence[Sequence[int]]]] = ()

    def write(self, path: Path) -> None:
        """Write it for the child."""
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, path: Path) -> "Job":
        """Read it there."""
        content: dict[str, Any] = json.loads(path.read_text())
        return cls(**content)


class Model(Protocol):
    """A loaded model."""

    def logits(self, tokens: Sequence[int], first: int) -> Any:
        """Return the logits at the positions from `first` on: a NumPy array, float32 [len(tokens) - first, n_vocab]."""

    def generate(self, tokens: Sequence[int], most: int, stops: Collection[int]) -> Iterator[int]:
        """Continue `tokens` by the likeliest token again and again, at most `most` times; none of `stops` is given.

        A token must be yielded as soon as it is there, for that is timed: the first one comes when the prompt is read.
        Keys and values of earlier positions should be kept as the system's own users would.
        """

    def weight_bytes(self) -> int | None:
        """Say how many bytes the weights take, as they are held or would be saved; None where that is not known."""
