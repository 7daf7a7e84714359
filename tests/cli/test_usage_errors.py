"""What is wrong with a command line is told in ggufkit's own form: what, where, and what could be meant."""

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from operator import attrgetter
from pathlib import Path

import pytest

from ggufkit.cli._app import Commands, app
from ggufkit.cli._commands import Entry
from ggufkit.cli._errors import report
from ggufkit.cli._limit_options import LimitChoices
from ggufkit.cli._next_step import next_step, of_missing
from ggufkit.cli._words import nearest
from ggufkit.cli.bench import refused_value
from ggufkit.cli.export import Destinations
from ggufkit.errors import GgufkitError, InputError, LlamaCppError, UsageError


def entries() -> Iterator[Entry]:
    for table in (Commands.table, Destinations.table):
        for group in table.values():
            yield from group


def complaint(*words: str, expected: type[GgufkitError] = UsageError) -> tuple[str, str]:
    """Return the message and the hint that a command line gets."""
    with pytest.raises(expected) as caught:
        app(list(words), prog_name="ggufkit")
    return str(caught.value), caught.value.hint or next_step(caught.value) or ""


@pytest.mark.parametrize(
    ("line", "message", "hint"),
    [
        ("convrt", "ggufkit has no command 'convrt'", "did you mean ggufkit convert?"),
        ("export olama m n", "ggufkit export has no command 'olama'", "did you mean ggufkit export ollama?"),
        ("xyzzy", "ggufkit has no command 'xyzzy'", "ggufkit --help lists all commands"),
        ("model.gguf", "ggufkit has no command 'model.gguf'", "ggufkit chat model.gguf talks to it"),
        ("--json list", "ggufkit has no option --json", "ggufkit COMMAND --json"),
        ("convert --outtpe f16 x", "ggufkit convert has no option --outtpe", "did you mean --outtype"),
        ("chat m --flash_attn on", "ggufkit chat has no option --flash_attn", "did you mean --flash-attn?"),
        ("chat m --TOP-K 5", "ggufkit chat has no option --TOP-K", "did you mean --top-k"),
        ("chat m -nlg 5", "ggufkit chat has no option -nlg", "did you mean -ngl?"),
        ("chat m -temp 0.5", "ggufkit chat has no option -temp", "did you mean --temp?"),
        ("chat m -zzz", "ggufkit chat has no option -zzz", "ggufkit chat --help"),
        ("convert", "ggufkit convert: no SRC is given", "ggufkit convert [OPTIONS] SRC"),
        ("verify a", "ggufkit verify: no CHECKPOINT is given", "verify [OPTIONS] GGUF CHECKPOINT"),
        ("convert-lora x", "ggufkit convert-lora: --base is missing", "--base DIR: The checkpoint folder"),
        ("convert a b", "ggufkit convert: 'b' is one word too many", "stands in quotes"),
        ("convert a b c", "ggufkit convert: words too many: 'b' 'c'", "ggufkit convert [OPTIONS] SRC"),
        ("doctor x", "ggufkit doctor: 'x' is one word too many", "options only"),
        ("plan --ram", "ggufkit plan: --ram needs a value", "--ram SIZE: "),
        ("verify a b --lora c", "ggufkit verify: --lora needs 2 values", "--lora GGUF DIR: "),
        ("convert a --dry-run=1", "ggufkit convert: --dry-run takes no value", "ggufkit convert --help"),
        ("bench m -r 0", "ggufkit bench: -r: 0 is out of range, which is at least 1", "-r N: How often"),
        ("convert a -t 100000", "ggufkit convert: -t: 100000 is out of range, which is 1 to 512", "-t N: "),
        ("plan a -c 99999999999999999999", "ggufkit plan: -c: 99999999999999999999 is out of range", "-c N: "),
        (
            "report a --max-kld nan",
            "ggufkit report: --max-kld: nan is out of range, which is at least 0",
            "--max-kld X",
        ),
        ("report", "ggufkit report: no RUN.json is given", "ggufkit report [OPTIONS] RUN.json..."),
        ("generate m -np 256", "ggufkit generate: -np: 256 is out of range, which is 1 to 255", "-np N: "),
        ("bench m -r a", "ggufkit bench: -r: 'a' is no whole number", "-r N: How often"),
        ("chat m --predict=3.5", "ggufkit chat: --predict: '3.5' is no whole number", "--predict N: "),
        ("chat m --temp warm", "ggufkit chat: --temp: 'warm' is no number", "--temp X: "),
        ("chat m -fa autp", "ggufkit chat: -fa: 'autp' is none of auto, on, off", "did you mean auto?"),
        ("chat m -fa maybe", "ggufkit chat: -fa: 'maybe' is none of auto, on, off", "-fa auto|on|off: "),
        ("convert --outtype f17 x", "ggufkit convert: --outtype: 'f17' is none of f16, bf16", "did you mean f16"),
        ("chat m -ngl many", "ggufkit chat: -ngl: 'many' is not a number of layers, auto or all", "-ngl N|auto|all: "),
    ],
)
def test_what_is_wrong_is_named_with_the_next_step(line: str, message: str, hint: str) -> None:
    found = complaint(*line.split())
    assert found[0].startswith(message)
    assert hint in found[1]


@pytest.mark.parametrize("entry", [*entries()], ids=attrgetter("name"))
def test_every_command_answers_mistakes_in_this_form(entry: Entry) -> None:
    command = entry.load()
    path = ("export", entry.name) if entry.name in {"ollama", "lmstudio", "hub"} else (entry.name,)
    message, hint = complaint(*path, "--no-such-option")
    assert message == f"{' '.join(('ggufkit', *path))} has no option --no-such-option"
    assert f"{' '.join(('ggufkit', *path))} --help" in hint
    # The letters of its long options in a wrong order: each is found again.
    names = {name for each in command.params for name in each.opts if len(name) > 6 and name.startswith("--")}
    for name in names:
        assert name in nearest(f"{name[:4]}{name[5]}{name[4]}{name[6:]}", names), name


def test_usage_errors_go_to_stderr_alone_with_code_2_and_without_colour() -> None:
    for arguments in (["serve", "--port", "70000", "m"], ["serve", "--prot", "1", "m"], ["severe"], ["serve"]):
        done = subprocess.run(
            [sys.executable, "-m", "ggufkit", *arguments],
            capture_output=True,
            text=True,
            env=os.environ | {"NO_COLOR": "1"},
            check=False,
        )
        assert (done.returncode, done.stdout) == (2, "")
        lines = done.stderr.splitlines()
        assert lines[0].startswith("error: ggufkit")
        assert lines[1] == ""
        assert lines[2].startswith("hint: ")
        assert len(lines) == 3
        assert "\x1b" not in done.stderr


def test_a_missing_path_gets_the_similar_names_beside_it(tmp_path: Path) -> None:
    (tmp_path / "my model-F16.gguf").touch()
    (tmp_path / "run.json").touch()
    meant = f"'{tmp_path}/my model-F16.gguf'"
    assert of_missing(tmp_path / "my model-f16.gguf") == f"did you mean {meant}?"
    assert of_missing(tmp_path / "my mode") == f"did you mean {meant}?"
    assert of_missing(tmp_path / "other") is None
    assert of_missing(tmp_path / "x.json") is None  # an ending alone is no likeness
    assert of_missing(tmp_path / "nowhere" / "run.json") == f"there is no folder {tmp_path / 'nowhere'} either"
    message, hint = complaint("report", str(tmp_path / "runs.json"), expected=InputError)
    assert message == f"cannot read {tmp_path / 'runs.json'}: No such file or directory"
    assert hint == f"did you mean {tmp_path / 'run.json'}?"


def test_an_error_without_a_hint_gets_one_where_a_path_or_the_command_line_is_to_blame(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["ggufkit", "export", "ollama", "x"])
    assert next_step(UsageError("this and that do not go together")) == "ggufkit export ollama --help lists all options"
    assert next_step(InputError(f"no such text: {tmp_path / 'a'}")) == f"ls {tmp_path} shows what is there"
    assert next_step(InputError("config.json: it has no layers")) is None
    with pytest.raises(IsADirectoryError) as caught:
        tmp_path.read_text()
    assert next_step(caught.value) == "it is a folder: name a file in it"


def test_paths_that_are_not_what_is_needed_are_told_by_what_they_are(tmp_path: Path) -> None:
    folder, file = tmp_path / "folder", tmp_path / "file.gguf"
    folder.mkdir()
    file.touch()
    swapped = complaint("verify", str(folder), str(file))
    assert swapped == (f"{folder} is a folder: the GGUF file comes first", f"ggufkit verify {file} {folder}")
    message, hint = complaint("inspect", str(file), expected=InputError)
    assert message == f"{file} is empty"
    assert "download it" in hint
    assert complaint("list", str(file), expected=InputError)[0] == f"{file} is no folder"
    assert complaint("list", str(tmp_path / "filo.gguf"), expected=InputError)[1] == f"did you mean {file}?"


@pytest.mark.parametrize(
    ("number", "code"), [(errno.ENOENT, 3), (errno.ENOTDIR, 3), (errno.EISDIR, 3), (errno.EACCES, 5)]
)
def test_an_error_of_the_system_about_a_path_is_no_bug(
    number: int, code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    path = tmp_path / "file" / "config.json"
    assert report(OSError(number, os.strerror(number), str(path))) == code
    error, _, hint = capsys.readouterr().err.splitlines()
    assert error == f"error: {path}: {os.strerror(number)}"
    assert hint.startswith("hint: ")
    assert "bug" not in hint


def test_an_adapter_that_is_not_there_is_told_before_a_model_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "style.gguf").touch()
    for scale in ("", ":0.5"):
        adapter = f"{tmp_path}/stile.gguf"
        found = complaint("generate", "model.gguf", "hi", "--lora", f"{adapter}{scale}", expected=InputError)
        assert found == (f"no such adapter: {adapter}", f"did you mean {tmp_path}/style.gguf?")


def test_a_share_above_all_is_refused_where_it_could_never_be_kept() -> None:
    with pytest.raises(UsageError, match="--min-same-top '300%' is more than all"):
        LimitChoices(min_same_top="300%").gates()
    assert LimitChoices(max_ppl_increase="300%").gates().max_ppl_increase == 3


def test_a_value_that_llama_bench_refuses_is_a_mistake_of_the_command_line() -> None:
    said = "ended with status 1: error: invalid parameter for argument: -fa (command: llama-bench -p 8 -fa maybe)"
    assert str(refused_value(LlamaCppError(said))) == "-fa: llama-bench takes no 'maybe'"
    assert refused_value(LlamaCppError("it died")) is None
