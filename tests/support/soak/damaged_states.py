"""Commands that find damaged files of their own: what an earlier run has kept, and files that people hand on."""

import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import tiny_model
from command_server import CommandServer
from syscall_faults import Call, Decide, why_not

import ggufkit
from soak import Row, Trial
from soak.small_files import KINDS, damage

_DEMO = Path(ggufkit.__file__).parent / "demo_model"
_ALWAYS, _REFUSED = {0}, {0, 2, 3}


@dataclass(frozen=True)
class _State:
    """A command, and the files that it finds.

    Attributes:
        arguments: of the command; it runs in a folder that is laid out anew for every case.
        codes: the exit codes that are right.
        damaged: the files of which one is damaged, by patterns.
    """

    name: str
    arguments: Sequence[str]
    codes: set[int]
    damaged: Sequence[str]


_EVAL = ("eval", "m.gguf", "q.gguf", "-f", "text.txt", "-c", "64", "--chunks", "4", "-t", "1", "-o", "run.json")
_OPTIMIZE = (
    *("optimize", "tiny.gguf", "--target-bpw", "9", "-f", "text.txt", "-c", "64", "--effort", "fast", "-t", "1"),
    *("--pool", "Q8_0,Q4_0", "--state", "state", "-o", "best.gguf"),
)
_MOMENT = 0.5  # seconds; a child of the command, which may be who writes, dies after it
_BATCH = ("generate", "tiny.gguf", "--batch", "prompts.jsonl", "-o", "a.jsonl", "-n", "2", "--temp", "0", "-t", "1")
_STATES = (
    _State("batch", _BATCH, {0, 2}, [".a.jsonl.ggufkit-*"]),
    _State("evaluation", _EVAL, _ALWAYS, ["cache/ggufkit/evaluations/*/*"]),
    _State("optimization", _OPTIMIZE, _ALWAYS, ["state/*"]),
    _State("recipe", ("quantize", "m.gguf", "--recipe", "recipe.txt", "-o", "out.gguf"), _REFUSED, ["recipe.txt"]),
    _State("matrix", ("quantize", "Q4_K_M", "m.gguf", "--imatrix", "i.gguf", "-o", "out.gguf"), _REFUSED, ["i.gguf"]),
    _State("matrix shown", ("inspect", "i.gguf"), _REFUSED, ["i.gguf"]),
    _State("profile", ("generate", "tiny.gguf", "hi", "-n", "1", "--profile", "p.json"), _REFUSED, ["p.json"]),
    _State("result", ("report", "run.json", "-o", "page.html"), _REFUSED, ["run.json"]),
)


def _prepared(server: CommandServer, folder: Path) -> None:
    """Lay out what the commands find when nothing is damaged."""
    folder.mkdir()
    ggufkit.convert(_DEMO, folder / "m.gguf")
    tiny_model.write(folder / "tiny.gguf")
    shutil.copyfile(_DEMO / "heldout.txt", folder / "text.txt")
    (folder / "prompts.jsonl").write_text('{"id": 1, "prompt": "hello"}\n{"id": 2, "prompt": "the world"}\n')
    (folder / "p.json").write_bytes(KINDS["profile.json"][0])
    for arguments in (
        ("quantize", "Q8_0", "m.gguf", "-o", "q.gguf"),
        ("imatrix", "m.gguf", "-f", "text.txt", "-c", "64", "--chunks", "2", "-o", "i.gguf"),
        ("inspect", "q.gguf", "--recipe"),
        _OPTIMIZE,
        _EVAL,
    ):
        done = server.run(arguments, folder=folder, environment=_surroundings(folder))
        assert done.status == 0, (arguments, done.err)
        if "--recipe" in arguments:
            (folder / "recipe.txt").write_text(done.out)
    (folder / "best.gguf").unlink()

    def until(name: str, arguments: Sequence[str], watched: Path) -> None:
        def decide(process: Callable[[], int]) -> Decide:
            def one(call: Call) -> None:
                if call.name == "write" and call.path.name.endswith(name):
                    os.kill(process(), signal.SIGKILL)
                    time.sleep(_MOMENT)

            return one

        watched.mkdir(parents=True, exist_ok=True)
        server.run(arguments, folder=folder, environment=_surroundings(folder), decide=decide, watched=[watched])

    until(".scores", _EVAL, folder / "cache")
    until("ggufkit-partial", _BATCH, folder)


def _surroundings(folder: Path) -> dict[str, str | None]:
    return {"XDG_CACHE_HOME": f"{folder}/cache", "GGUFKIT_CACHE": f"{folder}/cache/ggufkit"}


def _measure(trial: Trial) -> None:
    if reason := why_not():
        trial.skip(reason)
    good, folder = trial.folder / "good", trial.folder / "work"
    with CommandServer() as server:
        _prepared(server, folder)
        folder.rename(good)
        for case in trial.cases():
            chance, state = trial.random(case), _STATES[case % len(_STATES)]
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(good, folder, copy_function=_copy)
            files = sorted(
                path
                for pattern in state.damaged
                for path in folder.glob(pattern)
                if path.is_file() and path.stat().st_size
            )
            if not files:
                trial.broken(case, f"{state.name}: there is nothing to damage")
                continue
            path = chance.choice(files)
            _damage(path, chance)
            done = server.run(state.arguments, folder=folder, environment=_surroundings(folder))
            if problems := done.problems(codes=sorted(state.codes)):
                trial.broken(case, f"{state.name}, {path.name}: {problems}")
            trial.add("refused" if done.status else "ended well")


def _copy(source: str, target: str) -> str:
    """Keep times, by which an evaluation knows its files."""
    return shutil.copy2(source, target)


def _damage(path: Path, chance: random.Random) -> None:
    if path.suffix in {".json", ".jsonl"}:
        damage(path, path.read_bytes(), chance)
        path.with_name("line.json").unlink(missing_ok=True)
        return
    content = bytearray(path.read_bytes())
    place = chance.randrange(len(content))
    match chance.randrange(3):
        case 0:
            del content[place:]
        case 1:
            content[place : place + 8] = chance.randbytes(8)
        case _:
            content += chance.randbytes(40)
    path.write_bytes(content)


ROWS = [
    Row(
        "damaged-states",
        "commands that find a damaged state, journal, recipe, matrix, profile or result",
        "0 tracebacks, 0 left processes; exit 0, or 2 or 3 where it was handed on",
        _measure,
        count=400,
        quick=0,  # tests/fuzz/test_small_files.py
        engine=True,
    )
]
