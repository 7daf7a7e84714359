"""Asking models in processes of their own; what an earlier run has got is not asked again."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ggufkit.errors import InputError
from ggufkit.evaluation.answers.child import DONE, Request
from ggufkit.evaluation.child_process import ask
from ggufkit.evaluation.likelihood.running import Running
from ggufkit.progress import Progress

_CHILD = "ggufkit.evaluation.answers.child"
_A_LINE = 'a line is {"prompt": "..."} or {"messages": [{"role": "user", "content": "..."}]}'


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer, and its tokens; `error` says why there is none."""

    text: str
    tokens: tuple[int, ...]
    finish_reason: str
    error: str | None = None


def replies_of(
    model: Path,
    key: str,
    lines: Sequence[Mapping[str, Any]],
    folder: Path,
    running: Running,
    *,
    max_tokens: int,
    progress: Progress,
) -> list[Reply]:
    """Let a model answer prompts, greedily, as `ggufkit generate --batch` takes them; kept in `folder` under `key`.

    Raises:
        As `ggufkit.inference.batch_job.run_file`; LlamaCppError when the process died.
    """
    content = b"".join(json.dumps(line, ensure_ascii=False).encode() + b"\n" for line in lines)
    stem = f"{key}-{hashlib.sha256(content + str(max_tokens).encode()).hexdigest()[:16]}"
    prompts, output = folder / f"{stem}.prompts.jsonl", folder / f"{stem}.replies.jsonl"
    _drop_damaged(output, _replies)
    if not output.exists():
        prompts.write_bytes(content)
        request = Request(
            model=str(model.absolute()),
            output=str(output.absolute()),
            prompts=str(prompts.absolute()),
            max_tokens=max_tokens,
            running=running,
        )
        _ask(folder / f"{stem}.request.json", request, f"Asking {model.name}", progress)
    return _replies(output)


def weights_of(
    model: Path,
    key: str,
    choices: Sequence[tuple[Mapping[str, Any], Sequence[str]]],
    folder: Path,
    running: Running,
    *,
    progress: Progress,
) -> list[list[float]]:
    """Return how likely a model finds each choice behind its prompt: log-likelihoods in nats.

    Raises:
        As the engine; LlamaCppError when the process died.
    """
    asked = [(dict(line), list(texts)) for line, texts in choices]
    stem = f"{key}-{hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:16]}"
    output = folder / f"{stem}.weights.json"
    _drop_damaged(output, _weights)
    if not output.exists():
        request = Request(model=str(model.absolute()), output=str(output.absolute()), choices=asked, running=running)
        _ask(folder / f"{stem}.request.json", request, f"Asking {model.name}", progress)
    return _weights(output)


def _drop_damaged(output: Path, read: Callable[[Path], Any]) -> None:
    """Remove what an earlier run has kept, if a disk has made something else of it: then it is asked again."""
    try:
        read(output)
    except FileNotFoundError:
        pass
    except (ValueError, OverflowError, RecursionError, KeyError, TypeError, AttributeError):
        output.unlink()


def _replies(output: Path) -> list[Reply]:
    return [_reply(json.loads(line)) for line in output.read_bytes().splitlines()]


def _weights(output: Path) -> list[list[float]]:
    return [[float(weight) for weight in each] for each in json.loads(output.read_text())]


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read a JSONL file, or a text whose lines are prompts.

    Raises:
        InputError: it cannot be read, a line is no JSON object, or it is empty.
    """
    try:
        lines = [line for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read {path}: {error}") from None
    if not lines:
        raise InputError(f"{path} is empty")
    if path.suffix.lower() not in {".jsonl", ".json"}:
        return [{"prompt": line} for line in lines]
    found = []
    for number, line in enumerate(lines, 1):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}, line {number} is not JSON: {error}", hint=_A_LINE) from None
        if not isinstance(value, dict):
            raise InputError(f"{path}, line {number} is no JSON object", hint=_A_LINE)
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise InputError(f"{path}, line {number} has half of a surrogate pair, which is no character") from None
        found.append(value)
    return found


def prompt_of(line: Mapping[str, Any], path: Path, number: int) -> dict[str, Any]:
    """Take the part of a line that is a prompt. Raises InputError when there is none, or it is malformed."""
    from ggufkit.inference import batch_file  # here, for most who ask have no prompts

    found = {name: line[name] for name in ("prompt", "messages", "system") if name in line}
    if "prompt" not in found and "messages" not in found:
        raise InputError(f"{path}, line {number} has neither a prompt nor messages", hint=_A_LINE)
    try:
        batch_file.parse(json.dumps(found).encode())
    except InputError as error:
        raise InputError(f"{path}, line {number}: {error}", hint=_A_LINE) from None
    return found


def check_asked(replies: Sequence[Reply], model: str, what: str, note: Callable[[str], None]) -> int:
    """Count the prompts that could not be given to a model; `note` gets how many, and why the first one could not."""
    errors = [reply.error for reply in replies if reply.error is not None]
    if errors:
        why = errors[0].partition(" (-c ")[0]  # of `generate`; here that is the length of chunks
        note(f"warning: {model}: {len(errors)} of {len(replies)} {what} could not be asked: {why}")
    return len(errors)


def _ask(path: Path, request: Request, stage: str, progress: Progress) -> None:
    request.write(path)

    def on_line(line: str) -> None:
        if line.startswith(DONE):
            done, total = line.removeprefix(DONE).split()
            progress(stage, int(done), int(total), "steps")

    ask(_CHILD, path, request.model, on_line)


def _reply(answer: Mapping[str, Any]) -> Reply:
    tokens = tuple(int(each["token"]) for each in answer.get("logprobs") or ())
    return Reply(str(answer.get("text", "")), tokens, str(answer.get("finish_reason", "")), answer.get("error"))
