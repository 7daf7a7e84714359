"""A process of its own that answers prompts, or weighs choices, with one model: it may die, and only it.

The request (JSON) names the model and how it runs. `prompts` is a file for `batch_job.run_file`, whose answers go to
`output`; `choices` is a list of (prompt line, choices), for which the log-likelihoods of all choices go there.
"""

import json
import sys
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ggufkit.evaluation.child_process import refusing
from ggufkit.evaluation.likelihood.running import Running

if TYPE_CHECKING:
    from ggufkit.inference.engine import Engine

DONE = "answers done:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the child is to do; paths are absolute. Greedy: temperature 0, one seed."""

    model: str
    output: str
    prompts: str = ""
    choices: list[tuple[dict[str, Any], list[str]]] = field(default_factory=list)
    max_tokens: int = 128
    running: Running = field(default_factory=Running)

    def write(self, path: Path) -> None:
        """Write the request for the child."""
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, path: Path) -> "Request":
        """Read it there."""
        content: dict[str, Any] = json.loads(path.read_text())
        content["running"] = Running(**content["running"])
        return cls(**content)


def _say(stage: str, done: int, total: int, unit: Literal["bytes", "steps"] = "steps") -> None:  # noqa: ARG001 - a Progress
    sys.stdout.write(f"{DONE} {done} {total}\n")
    sys.stdout.flush()


def _answer(request: Request) -> None:
    from ggufkit.inference.batch_job import BatchOptions, run_file  # here, for who only asks has no use for it

    options = BatchOptions(sampling={"temperature": 0.0, "seed": 1}, max_tokens=request.max_tokens, top_scores=0)
    run_file(
        Path(request.model),
        Path(request.prompts),
        Path(request.output),
        request.running.options(),
        options,
        progress=_say,
    )


def _weigh(request: Request) -> None:
    """Sum the log-probabilities of each choice's tokens behind its prompt."""
    from ggufkit.inference import batch_file
    from ggufkit.inference.engine import Engine
    from ggufkit.inference.prompts import PromptMaker, PromptOptions

    found: list[list[float]] = []
    with Engine.open(Path(request.model), request.running.options(vocabulary_only=True)) as vocabulary:
        maker = PromptMaker(vocabulary, PromptOptions())
        asked = []
        for line, choices in request.choices:
            parsed = batch_file.parse(json.dumps(line).encode())
            prompt = maker.tokens(parsed.prompt, parsed.messages, system=parsed.system)
            asked.append((prompt, [vocabulary.tokenize(choice) for choice in choices]))
    size = max(len(prompt) + len(choice) for prompt, cut in asked for choice in cut)
    options = replace(request.running.options(), context_size=max(64, size))
    with Engine.open(Path(request.model), options) as engine:
        for number, (prompt, cut) in enumerate(asked):
            found.append([_log_likelihood(engine, prompt, choice) for choice in cut])
            _say("", number + 1, len(asked))
    Path(request.output).write_text(json.dumps(found))


def _log_likelihood(engine: "Engine", prompt: list[int], choice: list[int]) -> float:
    import numpy as np

    logits = engine.logits([*prompt, *choice])[len(prompt) - 1 : -1].astype(np.float64)
    largest = logits.max(axis=1)
    total = largest + np.log(np.exp(logits - largest[:, None]).sum(axis=1))
    return float((logits[np.arange(len(choice)), choice] - total).sum())


def main() -> None:
    """Do what the request asks for, whose path is the argument."""
    with refusing() as path:
        request = Request.read(path)
        if request.prompts:
            _answer(request)
        else:
            _weigh(request)
