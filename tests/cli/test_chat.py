"""`ggufkit chat` as people use it: one answer through pipes, a conversation in a terminal, signals, clear refusals."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import tiny_model

pytestmark = pytest.mark.engine

CHAT = [sys.executable, "-c", "from ggufkit.cli import main; main()", "chat"]
FLAGS = ["-t", "1", "--temp", "0"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model.saying(tmp_path_factory.mktemp("chat") / "model.gguf", "Hi 🙂!")


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chat")
    return tiny_model.saying(folder / "endless.gguf", "abc", endless=True, training_context=1 << 20)


def chat(*arguments: str | Path, stdin: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    source = {"stdin": subprocess.DEVNULL} if stdin is None else {"input": stdin}
    return subprocess.run([*CHAT, *arguments], capture_output=True, timeout=60, check=False, **source)


# ---- one answer


def test_the_answer_alone_is_on_stdout(model: Path) -> None:
    done = chat(model, "hello", *FLAGS)
    assert (done.returncode, done.stdout.decode()) == (0, "Hi 🙂!\n")
    assert "tokens per second" in done.stderr.decode()
    assert len(done.stderr.splitlines()) == 1


def test_piped_text_is_the_question(model: Path) -> None:
    assert chat(model, *FLAGS, stdin=b"hello\n").stdout.decode() == "Hi 🙂!\n"


def test_piped_text_precedes_the_prompt(model: Path, tmp_path: Path) -> None:
    # This template shows the question to us instead of to the model, by refusing it.
    template = tmp_path / "show.jinja"
    template.write_text("{{ raise_exception(messages | tojson) }}")
    done = chat(model, "sum it up", "-sys", "be kind", "--chat-template", template, stdin="text é\n".encode())
    assert done.returncode == 3
    assert '"role": "system", "content": "be kind"' not in done.stderr.decode()  # it was merged after the refusal
    assert r'"be kind\n\ntext é\n\nsum it up"' in done.stderr.decode()


def test_json_is_one_document(model: Path) -> None:
    done = chat(model, "hello", "--json", "-s", "7", *FLAGS)
    document = json.loads(done.stdout)
    assert document["answer"] == "Hi 🙂!"
    assert document["schema_version"] == 1
    assert document["seed"] == 7
    assert document["finish_reason"] == "stop"
    assert document["generated_tokens"] == len("Hi 🙂!".encode())
    assert document["tokens_per_second"] > 0
    assert done.stderr == b""


def test_predict_limits_the_answer(model: Path) -> None:
    assert chat(model, "hello", "-n", "2", *FLAGS).stdout == b"Hi\n"


def test_verbose_shows_the_log_of_llama_cpp(model: Path) -> None:
    done = chat(model, "hello", "-v", *FLAGS)
    assert done.stdout.decode() == "Hi 🙂!\n"
    assert "llama_model_loader" in done.stderr.decode()


def test_all_engine_options_are_accepted(model: Path) -> None:
    done = chat(
        model, "hello", "-c", "256", "-tb", "1", "-ngl", "0", "-fa", "on", "-ctk", "f16", "-ctv", "bf16", "--top-k",
        "5", "--top-p", "0.9", "--min-p", "0.1", "--repeat-penalty", "1.1", "-st", *FLAGS,
    )  # fmt: skip
    assert done.stdout.decode() == "Hi 🙂!\n"


# ---- refusals


@pytest.mark.parametrize(
    ("arguments", "stdin", "status", "message"),
    [
        (["missing.gguf", "hi"], None, 3, "no such file: missing.gguf"),
        ([".", "hi"], None, 3, "is a folder, not a GGUF file"),
        (["MODEL"], None, 2, "nothing to answer"),
        (["MODEL", "--json"], None, 2, "nothing to answer"),
        (["MODEL"], b"\xff\xfe", 3, "not UTF-8"),
        (["MODEL", "hi", "--temp", "-1"], None, 2, "temperature"),
        (["MODEL", "hi", "--top-p", "nan"], None, 2, "top_p"),
        (["MODEL", "hi", "-ngl", "many"], None, 2, "auto or all"),
        (["MODEL", "hi", "-n", "0"], None, 2, "max_tokens"),
        (["MODEL", "hi", "--chat-template", "no.jinja"], None, 3, "no.jinja"),
        (["MODEL", "x y " * 500, "-c", "64"], None, 3, "the context holds 64"),
        (["MODEL", "hi", "--n-ctx", "5"], None, 2, "has no option --n-ctx"),
        (["MODEL", "hi", "-ctk", "q4_0", "-fa", "off", "-ctv", "q4_0"], None, 2, "with fused attention only"),
    ],
)
def test_what_cannot_work_is_one_clear_line(
    model: Path, arguments: list[str], stdin: bytes | None, status: int, message: str
) -> None:
    done = chat(*[str(model) if argument == "MODEL" else argument for argument in arguments], stdin=stdin)
    assert done.returncode == status
    assert done.stdout == b""
    assert message in done.stderr.decode()
    assert b"Traceback" not in done.stderr


def test_a_checkpoint_folder_gets_the_command_that_converts_it(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    done = chat(tmp_path, "hi")
    assert done.returncode == 3
    assert f"hint: ggufkit quantize Q4_K_M {tmp_path}" in done.stderr.decode()


def test_a_model_without_template_says_so(tmp_path: Path) -> None:
    done = chat(tiny_model.write(tmp_path / "base.gguf", template=None), "hi")
    assert done.returncode == 3
    assert "no chat template" in done.stderr.decode()
    assert "--chat-template" in done.stderr.decode()


# ---- reasoning, grammars, sessions, profiles


@pytest.fixture(scope="module")
def thinking(tmp_path_factory: pytest.TempPathFactory) -> Path:
    said = [*tiny_model.ids("hmdu"), tiny_model.token("</think>"), *tiny_model.ids("Yes")]
    start = {tiny_model.token(tiny_model.spell("\n")): tiny_model.token("<think>")}
    successors = start | tiny_model.chain(tiny_model.token("<think>"), said)
    return tiny_model.write(
        tmp_path_factory.mktemp("chat") / "m.gguf", successors=successors, template=tiny_model.CHATML
    )


def test_reasoning_stays_out_of_stdout_and_has_its_place_in_json(thinking: Path) -> None:
    done = chat(thinking, "hello", *FLAGS)
    assert done.stdout == b"Yes\n"
    assert "(thought for " in done.stderr.decode()
    assert "hmdu" not in done.stderr.decode()
    shown = chat(thinking, "hello", "--show-reasoning", *FLAGS)
    assert shown.stdout == b"Yes\n"
    assert "hmdu\n" in shown.stderr.decode()
    document = json.loads(chat(thinking, "hello", "--json", *FLAGS).stdout)
    assert (document["answer"], document["reasoning"]) == ("Yes", "hmdu")


def test_reasoning_that_nobody_knows_cannot_be_switched_on(tmp_path: Path) -> None:
    # No token of this vocabulary and nothing in its template is about reasoning.
    template = tmp_path / "plain.jinja"
    template.write_text("{{ messages[0].content }}")
    done = chat(tiny_model.saying(tmp_path / "m.gguf", "Hi"), "x", "--reasoning", "on", "--chat-template", template)
    assert (done.returncode, done.stdout) == (2, b"")
    assert "knows reasoning" in done.stderr.decode()


def test_a_schema_or_a_grammar_shapes_the_answer(endless: Path, tmp_path: Path) -> None:
    schema = '{"enum": ["yes", "no"]}'
    assert json.loads(chat(endless, "hello", "-j", schema, *FLAGS).stdout) in {"yes", "no"}
    grammar = tmp_path / "digits.gbnf"
    grammar.write_text('root ::= [0-9] [0-9] "."')
    for given in (str(grammar), grammar.read_text()):
        answer = chat(endless, "hello", "--grammar", given, *FLAGS).stdout.decode()
        assert len(answer) == 4
        assert answer[:2].isdecimal()


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--grammar", "root ::= ("], 3, "not valid GBNF"),
        (["--grammar", "missing.gbnf"], 3, "cannot read the grammar missing.gbnf"),
        (["-j", "{"], 3, "JSON"),
        (["-j", "{}", "--grammar", "root ::= [a]"], 2, "cannot be given together"),
        (["-j", "{}", "--reasoning", "on"], 2, "do not go together"),
        (["--lora", "missing.gguf"], 3, "missing.gguf"),
        (["--lora", "missing.gguf:strong"], 2, "FILE:SCALE"),
        (["--profile", "missing.json"], 3, "cannot read the profile missing.json"),
        (["--chat-template-kwargs", "[1]"], 2, "must be a JSON object"),
        (["--when-full", "explode"], 2, "drop"),
        (["--draft", "missing.gguf"], 3, "no such file: missing.gguf"),
    ],
)
def test_wrong_values_are_refused_with_a_reason(model: Path, arguments: list[str], status: int, message: str) -> None:
    done = chat(model, "hello", *arguments, *FLAGS)
    assert (done.returncode, done.stdout) == (status, b"")
    assert message in done.stderr.decode()
    assert b"Traceback" not in done.stderr


def test_a_draft_model_changes_nothing_but_the_speed(model: Path) -> None:
    done = chat(model, "hello", "--draft", model, "--draft-max", "4", *FLAGS)
    assert (done.returncode, done.stdout.decode()) == (0, "Hi 🙂!\n")
    assert "drafts: " in done.stderr.decode()


def test_a_session_that_cannot_be_written_is_told_before_anything_is_answered(model: Path, tmp_path: Path) -> None:
    done = chat(model, "one", "--session", tmp_path / "missing" / "s.json", *FLAGS)
    assert done.returncode == 5
    assert done.stdout == b""
    assert b"the output folder does not exist" in done.stderr


def test_a_session_file_carries_a_chat_from_call_to_call(model: Path, tmp_path: Path) -> None:
    file = tmp_path / "chat.json"
    for text in ("one", "two"):
        assert chat(model, text, "--session", file, "-sys", "be kind", *FLAGS).returncode == 0
    document = json.loads(file.read_text())
    assert [turn["content"] for turn in document["turns"]] == ["one", "Hi 🙂!", "two", "Hi 🙂!"]
    assert document["system"] == "be kind"
    file.write_text("{")
    done = chat(model, "three", "--session", file, *FLAGS)
    assert (done.returncode, file.read_text()) == (3, "{")


def test_values_for_the_template_come_from_the_command_line(model: Path, tmp_path: Path) -> None:
    template = tmp_path / "show.jinja"
    template.write_text("{{ raise_exception(mood) }}")
    done = chat(model, "hi", "--chat-template", template, "--chat-template-kwargs", '{"mood": "jolly"}')
    assert "jolly" in done.stderr.decode()


# ---- never waits, never writes control codes where nobody watches


@pytest.mark.parametrize("interactive", ["stdin", "stdout", "stderr"])
def test_with_one_stream_on_a_terminal_nothing_waits_and_no_control_codes_are_written(
    model: Path, thinking: Path, interactive: str
) -> None:
    master, terminal = os.openpty()
    streams: dict[str, int] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    streams[interactive] = terminal
    environment = {**os.environ, "TERM": "xterm-256color", "FORCE_COLOR": "1"}
    command = [*CHAT, thinking, "hello", *FLAGS]
    with subprocess.Popen(command, env=environment, **streams) as process:
        os.close(terminal)
        output, errors = process.communicate(timeout=60)
    shown = b""
    while chunk := _read(master):
        shown += chunk
    os.close(master)
    assert process.returncode == 0
    assert b"Yes" in (output or b"") + shown
    assert b"\x1b" not in (output or b"") + (errors or b"") + shown


def _read(master: int) -> bytes:
    try:
        return os.read(master, 1 << 16)
    except OSError:  # the other side is closed, and Linux calls that an error
        return b""


# ---- signals and pipes


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_ends_it_with_the_status_that_shells_know(endless: Path, number: signal.Signals, status: int) -> None:
    with subprocess.Popen([*CHAT, endless, "hello", *FLAGS], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.read(6) == b"abcabc"
        process.send_signal(number)
        _, errors = process.communicate(timeout=20)
        assert process.returncode == status
        assert b"Traceback" not in errors


def test_a_signal_while_the_prompt_is_read_ends_it(endless: Path) -> None:
    question = "hello " * 20_000
    command = [*CHAT, endless, "-c", "200000", *FLAGS]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(question.encode())
        process.stdin.close()
        process.stdin = None
        time.sleep(2.5)  # whether it loads or reads by then, it has to end
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        output, errors = process.communicate(timeout=60)
        assert (process.returncode, output) == (143, b"")
        assert b"Traceback" not in errors


def test_a_reader_that_leaves_is_no_error(endless: Path) -> None:
    with subprocess.Popen([*CHAT, endless, "hello", *FLAGS], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        assert process.wait(timeout=20) == 141
        assert process.stderr.read() == b""


# ---- in a terminal


@pytest.fixture
def terminal() -> Iterator["Terminal"]:
    terminal = Terminal()
    yield terminal
    terminal.close()


class Terminal:
    def start(self, *arguments: str | Path) -> "Terminal":
        pexpect = pytest.importorskip("pexpect")
        environment = {**os.environ, "NO_COLOR": "1", "TERM": "dumb"}
        self.child = pexpect.spawn(
            CHAT[0], [*CHAT[1:], *map(str, arguments)], env=environment, encoding="utf-8", timeout=30, echo=False
        )
        return self

    def says(self, text: str) -> None:
        self.child.expect_exact(text)

    def type(self, text: str) -> None:
        self.child.sendline(text)

    def exit_status(self) -> int:
        import pexpect

        self.child.expect(pexpect.EOF)
        self.child.close()
        return self.child.exitstatus

    def close(self) -> None:
        if hasattr(self, "child"):
            self.child.close(force=True)


def test_a_conversation_in_a_terminal(terminal: Terminal, model: Path) -> None:
    terminal.start(model, *FLAGS)
    terminal.says("/help lists commands")
    terminal.says("> ")
    terminal.type("hello")
    terminal.says("Hi 🙂!")
    terminal.says("tokens per second")
    terminal.says("> ")
    terminal.type("and again")
    terminal.says("Hi 🙂!")
    terminal.says("reused")
    terminal.type("/stats")
    terminal.says("of 512 tokens of context in use")
    terminal.type("/clear")
    terminal.says("forgotten")
    terminal.type("/stats")
    terminal.says("0 of 512 tokens")
    terminal.type("/regen")
    terminal.says("error: there is nothing to answer yet")
    terminal.type("/nonsense")
    terminal.says("unknown command /nonsense")
    terminal.type("/set temperature hot")
    terminal.says("must be a number")
    terminal.type("/set temperature 0.5")
    terminal.says("temperature 0.5")
    terminal.type("/system be kind")
    terminal.says("be kind")
    terminal.type("/help")
    terminal.says("Ctrl-C stops a reply")
    terminal.type("/exit")
    assert terminal.exit_status() == 0


def test_several_lines_between_triple_quotes_are_one_message(terminal: Terminal, model: Path, tmp_path: Path) -> None:
    template = tmp_path / "show.jinja"
    template.write_text("{{ raise_exception(messages | tojson) }}")
    terminal.start(model, "--chat-template", template)
    terminal.says("> ")
    terminal.type('"""one')
    terminal.says(". ")
    terminal.type("two")
    terminal.says(". ")
    terminal.type('three"""')
    terminal.says(r'"one\ntwo\nthree"')
    terminal.says("> ")
    terminal.child.sendeof()
    assert terminal.exit_status() == 0


def test_ctrl_c_stops_the_reply_and_ctrl_d_leaves(terminal: Terminal, endless: Path) -> None:
    terminal.start(endless, *FLAGS)
    terminal.says("> ")
    terminal.type("hello")
    terminal.says("abcabcabc")
    terminal.child.sendintr()
    terminal.says("tokens per second")
    terminal.says("> ")
    terminal.child.sendintr()
    terminal.says("Ctrl-D or /exit leaves")
    terminal.says("> ")
    terminal.type("again")
    terminal.says("abcabcabc")
    terminal.child.sendintr()
    terminal.says("> ")
    terminal.child.sendeof()
    assert terminal.exit_status() == 0


def test_single_turn_leaves_after_one_reply(terminal: Terminal, model: Path) -> None:
    terminal.start(model, "-st", *FLAGS)
    terminal.says("> ")
    terminal.type("hello")
    terminal.says("Hi 🙂!")
    assert terminal.exit_status() == 0


def test_control_characters_of_a_model_do_not_reach_the_terminal(terminal: Terminal, tmp_path: Path) -> None:
    terminal.start(tiny_model.saying(tmp_path / "m.gguf", "a\x1b[2Jb\x07c"), "hello", *FLAGS)
    terminal.says("a\ufffd[2Jb\ufffdc")
    assert terminal.exit_status() == 0
