"""Token ids of prompts, and texts of replies, by llama.cpp's vocabulary: what all systems are given is the same.

`cut` and `spell` run in a process of their own, as everything that loads a model does.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ggufkit.errors import GgufkitError
from ggufkit.evaluation import texts as own_texts
from ggufkit.evaluation.child_process import ask, refusing
from ggufkit.inference import batch_file
from ggufkit.inference.engine import Engine
from ggufkit.inference.options import EngineOptions
from ggufkit.inference.prompts import PromptMaker, PromptOptions

_CHILD = "ggufkit.evaluation.baselines.vocabulary"
_CALIBRATION = (128, 32)  # tokens of a row, and rows


@dataclass(frozen=True, slots=True)
class Cut:
    """What a vocabulary makes of the questions.

    Attributes:
        prompts: the ids of each prompt; the reason as text where there are none.
        choices: the ids of a prompt, and those of each choice behind it.
        bos: what the first token of a chunk is replaced by; None: nothing.
        stops: tokens that end a reply.
        plain: ids of ordinary tokens, to time with.
        calibration: rows of ids that are not scored.
    """

    prompts: Sequence[Sequence[int] | str]
    choices: Sequence[tuple[Sequence[int], Sequence[Sequence[int]]]]
    bos: int | None
    stops: Sequence[int]
    plain: Sequence[int]
    calibration: Sequence[Sequence[int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Request:
    model: str
    output: str
    prompts: Sequence[Mapping[str, Any]] = ()
    choices: Sequence[tuple[Mapping[str, Any], Sequence[str]]] = ()
    texts: Sequence[tuple[str, int]] = ()  # of which so many tokens are scored
    plain: int = 0
    replies: Sequence[tuple[Sequence[int], Sequence[int]]] = field(default_factory=list)  # prompt and reply, to spell


def cut(
    model: Path,
    prompts: Sequence[Mapping[str, Any]],
    choices: Sequence[tuple[Mapping[str, Any], Sequence[str]]],
    texts: Sequence[tuple[Path, int]],
    folder: Path,
    *,
    plain: int,
) -> Cut:
    """Make ids of prompts and choices by the model's own template; `texts` are those that are scored, as far as told.

    Raises:
        As the engine; LlamaCppError when the process died.
    """
    request = _Request(
        model=str(model.absolute()),
        output=str((folder / "cut.json").absolute()),
        prompts=[dict(line) for line in prompts],
        choices=[(dict(line), list(some)) for line, some in choices],
        texts=[(str(path.absolute()), used) for path, used in texts],
        plain=plain,
    )
    return Cut(**_ask(request, folder / "cut.request.json"))


def spell(model: Path, replies: Sequence[tuple[Sequence[int], Sequence[int]]], folder: Path) -> list[str]:
    """Return the texts of replies, (ids of the prompt, ids of the reply) each; reasoning is left out.

    Raises:
        As the engine; LlamaCppError when the process died.
    """
    request = _Request(
        model=str(model.absolute()), output=str((folder / "spelled.json").absolute()), replies=list(replies)
    )
    found: list[str] = _ask(request, folder / "spelled.request.json")
    return found


def _ask(request: _Request, path: Path) -> Any:
    path.write_text(json.dumps(asdict(request)))
    ask(_CHILD, path, request.model)
    return json.loads(Path(request.output).read_text())


def main() -> None:
    """Answer the request whose path is the argument: what the child process does."""
    with refusing() as path:
        request = _Request(**json.loads(path.read_text()))
        with Engine.open(Path(request.model), EngineOptions(vocabulary_only=True)) as vocabulary:
            answer = _spelled(request, vocabulary) if request.replies else _cut(request, vocabulary)
    Path(request.output).write_text(json.dumps(answer))


def _cut(request: _Request, vocabulary: Engine) -> dict[str, Any]:
    size = vocabulary.vocabulary_size
    plain = (token for token in range(size) if not vocabulary.is_control(token) and not vocabulary.ends(token))
    first = [token for token, _ in zip(plain, range(request.plain), strict=False)]
    return {
        **_asked(request, vocabulary),
        "bos": vocabulary.bos if vocabulary.wants_bos else None,
        "stops": [token for token in range(size) if vocabulary.ends(token)],
        "plain": (first * -(-request.plain // max(1, len(first))))[: request.plain],
        "calibration": _calibration(request, vocabulary),
    }


def _asked(request: _Request, vocabulary: Engine) -> dict[str, Any]:
    if not (request.prompts or request.choices):
        return {"prompts": [], "choices": []}
    maker = PromptMaker(vocabulary, PromptOptions())
    return {
        "prompts": [_prompt(line, maker) for line in request.prompts],
        "choices": [
            (_ids(line, maker), [vocabulary.tokenize(choice) for choice in choices])
            for line, choices in request.choices
        ],
    }


def _prompt(line: Mapping[str, Any], maker: PromptMaker) -> list[int] | str:
    try:
        return _ids(line, maker)
    except GgufkitError as error:
        return str(error)


def _ids(line: Mapping[str, Any], maker: PromptMaker) -> list[int]:
    parsed = batch_file.parse(json.dumps(line).encode())
    return maker.tokens(parsed.prompt, parsed.messages, system=parsed.system)


def _calibration(request: _Request, vocabulary: Engine) -> list[list[int]]:
    """Take what is not scored of the texts, from their ends; without enough of that, prose of our own."""
    length, most = _CALIBRATION
    rows: list[list[int]] = []
    for path, used in request.texts:
        text = Path(path).read_text(encoding="utf-8", errors="replace")
        rest = vocabulary.tokenize(text, add_special=True)[used:]
        rows += [rest[start : start + length] for start in range(0, len(rest) - length + 1, length)]
    if len(rows) < most:
        own = vocabulary.tokenize("\n\n".join([*own_texts.PROMPTS, *own_texts.hard_texts()]))
        rows += [own[start : start + length] for start in range(0, len(own) - length + 1, length)]
    step = max(1, len(rows) // most)
    return rows[::step][:most]


def _spelled(request: _Request, vocabulary: Engine) -> list[str]:
    maker, found = PromptMaker(vocabulary, PromptOptions()), []
    for prompt, reply in request.replies:
        splitter = maker.splitter(list(prompt))
        splitter.feed(vocabulary.text_of(reply))
        splitter.finish()
        found.append(splitter.answer)
    return found
