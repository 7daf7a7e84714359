"""The command itself: help, version, completion, and what happens to mistakes."""

import re
import subprocess
import sys
from operator import attrgetter
from pathlib import Path

import pytest

import ggufkit
from ggufkit.cli import _beginning
from ggufkit.cli._app import Commands
from ggufkit.cli._commands import Entry
from ggufkit.cli.export import Destinations


def run(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "ggufkit", *arguments], capture_output=True, text=True)


def test_a_bare_call_helps_and_succeeds() -> None:
    done = run()
    assert done.returncode == 0
    assert "Examples:" in done.stdout
    assert "ggufkit quantize Q4_K_M" in done.stdout


def test_version() -> None:
    assert run("--version").stdout == f"ggufkit {ggufkit.__version__}\n"


def test_every_command_has_help_with_a_summary() -> None:
    for command in ("convert", "quantize", "chat", "setup", "doctor"):
        done = run(command, "--help")
        assert done.returncode == 0
        assert f"ggufkit {command}" in done.stdout
        assert "Options:" in done.stdout


def test_the_table_names_every_command_file_and_loads_what_is_called_alone() -> None:
    tables = (*Commands.table.values(), *Destinations.table.values())
    modules = {entry.module for entries in tables for entry in entries}
    folder = Path(ggufkit.__file__).parent / "cli"
    assert modules == {path.stem for path in folder.glob("[a-z]*.py")}
    program = (
        "import sys; from ggufkit.cli._app import app\n"
        "try: app(['rm', '--help'], standalone_mode=False)\n"
        "except SystemExit: pass\n"
        f"print([name for name in {sorted(modules)} if 'ggufkit.cli.' + name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.endswith("['list', 'rm']\n")  # rm prints as list does


@pytest.mark.parametrize(
    "entry", [entry for entries in Commands.table.values() for entry in entries], ids=attrgetter("name")
)
def test_every_command_loads_and_has_one_line_in_the_list(entry: Entry) -> None:
    command = entry.load()
    assert command.name == entry.name
    assert command.help
    assert entry.hidden or 10 < len(entry.summary) < 64


@pytest.mark.parametrize(
    "entry",
    [entry for table in (Commands.table, Destinations.table) for entries in table.values() for entry in entries],
    ids=attrgetter("name"),
)
def test_help_speaks_of_what_is_to_be_written_and_not_of_types(entry: Entry) -> None:
    command = entry.load()
    text = command.get_help(command.context_class(command, info_name=entry.name))
    usage = text.split("\n\n")[0]
    assert not re.search(r"[{}]|\.\.\.\.|\[\[", usage), usage
    assert not re.search(r"<(int|float|str|path|list)|x>=|<=x|\[required\]$|at least (-1|0|1)\]|\]  \[", text), text
    assert all(each.help for each in command.params if not getattr(each, "hidden", False))
    assert all(len(line) <= 80 for line in text.splitlines())


def test_every_command_but_the_server_can_answer_in_json() -> None:
    for entry in (entry for entries in Commands.table.values() for entry in entries):
        command = entry.load()
        if entry.name not in {"serve", "export"}:  # of export, what it leads to
            assert "--json" in {name for parameter in command.params for name in parameter.opts}, entry.name


@pytest.mark.parametrize(
    ("arguments", "begins"),
    [
        (["eval", "base.gguf", "model.gguf", "-f", "text"], True),
        (["eval", "--help"], False),
        (["eval", "--setup-baseline=all"], False),
        (["report", "eval"], False),
        ([], False),
    ],
)
def test_what_a_command_needs_starts_before_its_arguments_are_read(arguments: list[str], begins: bool) -> None:
    from ggufkit.evaluation import child_process

    with _beginning.of(arguments):
        assert bool(child_process._attendant.get()) is begins
    assert child_process._attendant.get() is None


def test_help_is_a_word_too() -> None:
    assert run("help").stdout == run("--help").stdout
    assert run("help", "export", "ollama").stdout == run("export", "ollama", "--help").stdout
    assert run("help", "nothing").returncode == 2


def test_a_mistyped_command_gets_its_neighbour_and_exit_code_2() -> None:
    done = run("quantise")
    assert done.returncode == 2
    assert "quantize" in done.stderr


def test_an_unknown_option_is_a_usage_error() -> None:
    done = run("convert", "--nonsense")
    assert done.returncode == 2
    assert "--nonsense" in done.stderr


def test_completion_knows_the_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION", "1")  # the tests may run without a shell above
    script = run("--show-completion", "bash")
    assert script.returncode == 0


def shell(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", "-c", script, "sh", sys.executable, "-m", "ggufkit"], capture_output=True, text=True, check=False
    )


def test_closed_streams_do_no_harm() -> None:
    for closed in (">&-", "2>&-", "<&- >&- 2>&-"):
        assert shell(f'"$@" doctor --help {closed}').returncode == 0
    code = "from ggufkit.cli import _standard_streams as s; s.fill(); print(open('/dev/null').fileno() > 2, flush=True)"
    done = subprocess.run(
        ["sh", "-c", '"$0" -c "$1; import sys; sys.exit(open(0).fileno())" >&- 2>&- <&-', sys.executable, code],
        check=False,
    )
    assert done.returncode == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no disk that is always full")
def test_a_full_disk_is_no_bug_of_ours() -> None:
    done = shell('"$@" --help >/dev/full')
    assert done.returncode == 5
    assert done.stderr == "error: cannot write the output: No space left on device\n"
