"""What a process that reads with one model is asked for, as a file of JSON."""

import json
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from ggufkit.evaluation.likelihood.running import Running

DONE = "chunk done:"


class Task(StrEnum):
    """What is to be done."""

    TOKENIZE = "tokenize"  # the texts, each into the file `tokens` with a number behind its name
    BASE = "base"  # read the chunks; write the base file and the scores (nll)
    COMPARE = "compare"  # read the chunks; write the scores against the base file


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the child is to do; paths are absolute."""

    task: Task
    model: str
    running: Running = field(default_factory=Running)
    texts: tuple[str, ...] = ()
    tokens: str = ""
    parse_special: bool = False
    chunk_tokens: int = 0
    chunks: int = 0
    start: int = 0
    base: str = ""
    scores: str = ""
    report: str = ""

    def write(self, path: Path) -> None:
        """Write the request for the child."""
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, path: Path) -> "Request":
        """Read it there."""
        content: dict[str, Any] = json.loads(path.read_text())
        content["running"] = Running(**content["running"])
        return cls(**content)
