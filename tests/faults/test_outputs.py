"""Outputs that cannot or must not be written: refused before any work, in one line, and nothing is touched."""

import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from fault_runs import FaultBench

pytestmark = [pytest.mark.fault, pytest.mark.engine]

COMMANDS = {
    "convert": ["convert", "{inputs}/checkpoint", "-o"],
    "quantize": ["quantize", "Q8_0", "{inputs}/model-F16.gguf", "-o"],
    "edit": ["edit", "{inputs}/model-F16.gguf", "--set", "general.name=x", "-o"],
    "imatrix": ["imatrix", "{inputs}/tiny.gguf", "-f", "{inputs}/text.txt", "-c", "64", "-o"],
    "convert-lora": ["convert-lora", "{inputs}/adapter", "--base", "{inputs}/checkpoint", "-o"],
    "merge-lora": ["merge-lora", "{inputs}/model-F32.gguf", "{inputs}/adapter.gguf", "-o"],
    "vocabulary": ["convert", "{inputs}/checkpoint", "--vocab-only", "-o"],
    "batch": ["generate", "{inputs}/tiny.gguf", "--batch", "{inputs}/prompts.jsonl", "-n", "1", "-o"],
    "eval": ["eval", "{inputs}/tiny.gguf", "{inputs}/tiny.gguf", "-f", "{inputs}/text.txt", "--chunks", "1", "-o"],
}


def folder(out: Path) -> Path:
    (out / "m.gguf").mkdir()
    (out / "m.gguf" / "file").touch()
    return out / "m.gguf"


def fifo(out: Path) -> Path:
    os.mkfifo(out / "fifo.gguf")
    return out / "fifo.gguf"


def broken_link(out: Path) -> Path:
    (out / "link.gguf").symlink_to("nowhere/at/all")
    return out / "link.gguf"


def link_to_itself(out: Path) -> Path:
    (out / "link.gguf").symlink_to("link.gguf")
    return out / "link.gguf"


def below_a_file(out: Path) -> Path:
    (out / "file").write_bytes(b"")
    return out / "file" / "m.gguf"


def read_only_folder(out: Path) -> Path:
    (out / "closed").mkdir(mode=0o555)
    return out / "closed" / "m.gguf"


def protected_file(out: Path) -> Path:
    (out / "m.gguf").write_bytes(b"precious")
    (out / "m.gguf").chmod(0o444)
    return out / "m.gguf"


MOST_TELLING = ("a FIFO", "a broken link", "not UTF-8", "in a read-only folder", "a protected file")
THOROUGHLY = ("convert", "quantize", "batch")
ODD: dict[str, Callable[[Path], Path]] = {
    "a folder": folder,
    "a FIFO": fifo,
    "/dev/null": lambda _: Path("/dev/null"),
    "/dev/full": lambda _: Path("/dev/full"),
    "a broken link": broken_link,
    "a link to itself": link_to_itself,
    "in no folder": lambda out: out / "missing" / "m.gguf",
    "below a file": below_a_file,
    "a long name": lambda out: out / f"{'x' * 250}.gguf",
    "a long path": lambda out: Path(f"{out}/{'y/' * 2100}m.gguf"),
    "not UTF-8": lambda out: Path(os.fsdecode(os.fsencode(out) + b"/\xff\xfe.gguf")),
    "in a read-only folder": read_only_folder,
    "a protected file": protected_file,
}


def looks(out: Path) -> dict[Path, tuple[int, ...]]:
    """What is there, but for the times at which it was read."""
    statuses = {path: path.lstat() for path in out.rglob("*")}
    return {path: (status.st_ino, status.st_mode, status.st_size) for path, status in statuses.items()}


@pytest.mark.parametrize("command", list(COMMANDS))
def test_odd_outputs_are_refused(bench: FaultBench, command: str) -> None:
    wrong = {}
    for what, make in ODD.items():
        if what not in MOST_TELLING and command not in THOROUGHLY:
            continue  # the same function looks at it
        bench.clear()
        path = make(bench.out)
        before = looks(bench.out)
        words = [word.replace("{inputs}", str(bench.inputs)) for word in COMMANDS[command]]
        outcome = bench.command([*words, path], powerless=True)
        if what == "a folder" and outcome.status == 0:  # some commands write into it, under a name of theirs
            continue
        problems = outcome.problems(codes=[2, 5])
        if looks(bench.out) != before:
            problems.append(f"changed: {list(bench.out.rglob('*'))}")
        if problems:
            wrong[what] = problems
        shutil.rmtree(bench.out)
    assert wrong == {}


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["quantize", "Q8_0", "m.gguf", "-o"], "m.gguf"),
        (["edit", "m.gguf", "--set", "general.name=x", "-o"], "m.gguf"),
        (["convert", "checkpoint", "-o"], "checkpoint/model.safetensors"),
        (["imatrix", "m.gguf", "-f", "text.txt", "-o"], "text.txt"),
        (["merge-lora", "m.gguf", "adapter.gguf", "-o"], "adapter.gguf"),
        (["merge-lora", "m.gguf", "adapter.gguf", "-o"], "m.gguf"),
        (["convert-lora", "adapter", "--base", "checkpoint", "-o"], "adapter/adapter_model.safetensors"),
        (["generate", "m.gguf", "--batch", "prompts.jsonl", "-o"], "prompts.jsonl"),
        (["eval", "m.gguf", "m.gguf", "-f", "text.txt", "-o"], "text.txt"),
        (["report", "run.json", "-o"], "run.json"),
        (["export", "ollama", "m.gguf", "--modelfile"], "m.gguf"),
    ],
    ids=lambda value: " ".join(value[:1]) if isinstance(value, list) else value.rpartition("/")[2],
)
def test_no_input_is_overwritten(bench: FaultBench, words: list[str], name: str) -> None:
    bench.clear()
    for each in ("checkpoint", "adapter"):
        shutil.copytree(bench.inputs / each, bench.out / each)
    for source, target in (("model-F32.gguf", "m.gguf"), ("adapter.gguf", "adapter.gguf"), ("text.txt", "text.txt")):
        shutil.copyfile(bench.inputs / source, bench.out / target)
    shutil.copyfile(bench.inputs / "prompts.jsonl", bench.out / "prompts.jsonl")
    (bench.out / "run.json").write_text("{}")
    content = (bench.out / name).read_bytes()
    (bench.out / "soft").symlink_to(name)
    (bench.out / "hard").hardlink_to(bench.out / name)
    (bench.out / "linked").symlink_to(bench.out)
    for alias in (f"./{name}", f"linked/checkpoint/../{name}", "soft", "hard"):
        outcome = bench.command([*words, alias])
        assert outcome.problems(codes=[2, 3] if name == "run.json" else [2]) == [], alias
        assert (bench.out / name).read_bytes() == content, alias


@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_modes(bench: FaultBench, umask: int) -> None:
    for command in ("convert", "quantize", "edit", "merge-lora"):
        bench.clear()
        words = [word.replace("{inputs}", str(bench.inputs)) for word in COMMANDS[command]]
        assert bench.command([*words, "m.gguf"], umask=umask).problems(codes=[0]) == []
        assert stat.S_IMODE((bench.out / "m.gguf").stat().st_mode) == 0o666 & ~umask, command
        (bench.out / "m.gguf").chmod(0o640)
        assert bench.command([*words, "m.gguf"], umask=umask).problems(codes=[0]) == []
        assert stat.S_IMODE((bench.out / "m.gguf").stat().st_mode) == 0o640, command


@pytest.mark.parametrize("command", ["convert", "quantize", "edit", "merge-lora"])
def test_a_limit_of_file_sizes_is_said(bench: FaultBench, command: str) -> None:
    bench.clear()
    (bench.out / "m.gguf").write_bytes(b"old")
    words = [word.replace("{inputs}", str(bench.inputs)) for word in COMMANDS[command]]
    outcome = bench.command([*words, "m.gguf"], largest_file=20_000)
    assert outcome.problems(codes=[5]) == []
    assert {path.name: path.read_bytes() for path in bench.out.iterdir()} == {"m.gguf": b"old"}
