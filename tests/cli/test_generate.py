"""`ggufkit generate` as scripts use it: exact bytes on stdout, JSON, files of prompts, signals, clear refusals."""

import json
import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_model

pytestmark = pytest.mark.engine

GENERATE = [sys.executable, "-c", "from ggufkit.cli import main; main()", "generate"]
FLAGS = ["-t", "1", "--temp", "0"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model.saying(tmp_path_factory.mktemp("generate") / "model.gguf", "Hi 🙂!")


@pytest.fixture(scope="module")
def endless(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("generate")
    return tiny_model.saying(folder / "endless.gguf", "abc", endless=True, training_context=1 << 20)


def generate(*arguments: str | Path, stdin: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    source = {"stdin": subprocess.DEVNULL} if stdin is None else {"input": stdin}
    return subprocess.run([*GENERATE, *arguments], capture_output=True, timeout=60, check=False, **source)


def error_of(done: subprocess.CompletedProcess[bytes]) -> str:
    text = done.stderr.decode()
    assert "Traceback" not in text
    return text


# ---- one prompt


def test_the_answer_is_on_stdout_byte_for_byte(model: Path) -> None:
    done = generate(model, "hello", *FLAGS)
    assert (done.returncode, done.stdout) == (0, "Hi 🙂!".encode())
    assert "tokens per second" in done.stderr.decode()
    quiet = generate(model, "-", "-q", *FLAGS, stdin=b"hello\n")
    assert (quiet.stdout, quiet.stderr) == ("Hi 🙂!".encode(), b"")


def test_a_raw_text_is_continued_as_it_is(model: Path) -> None:
    done = generate(model, "--raw", "-q", *FLAGS, stdin=b"one\n")  # ends as the template's prompt does
    assert done.stdout == "Hi 🙂!".encode()
    again = generate(model, "\n", "--raw", "-n", "3", "-q", *FLAGS, stdin=b"a")
    assert again.stdout == b"Hi "


def test_a_model_without_a_template_continues_the_text_and_says_so(tmp_path: Path) -> None:
    start = tiny_model.token("\u010a")
    path = tiny_model.write(
        tmp_path / "m.gguf", template=None, successors=tiny_model.chain(start, tiny_model.ids("ok"))
    )
    done = generate(path, "a\n", *FLAGS)
    assert done.stdout == b"ok"
    assert "no chat template" in done.stderr.decode()
    assert "no chat template" in error_of(generate(path, "a", "-sys", "be kind", *FLAGS))


def test_json_has_timings_and_log_probabilities(model: Path) -> None:
    done = generate(model, "hello", "--json", "--logprobs", "2", "--stop", " ", *FLAGS)
    document = json.loads(done.stdout)
    assert (document["text"], document["stop_string"], document["finish_reason"]) == ("Hi", " ", "stop")
    assert document["tokens_per_second"] > 0
    assert [bytes(each["bytes"]) for each in document["logprobs"]] == [b"H", b"i", b" "]
    for each in document["logprobs"]:
        assert len(each["top"]) == 2
        assert each["top"][0]["token"] == each["token"]
        assert each["top"][1]["logprob"] < each["logprob"] <= 0
    assert done.stderr == b""


def test_a_schema_forces_json(model: Path) -> None:
    schema = '{"type": "object", "properties": {"n": {"type": "integer", "maximum": 9}}, "required": ["n"]}'
    done = generate(model, "hello", "-j", schema, "-q", "-s", "1", "-n", "40", "-t", "1")
    assert isinstance(json.loads(done.stdout)["n"], int)


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ([], 2, "nothing to answer"),
        (["x", "-n", "0"], 2, "-n must be positive"),
        (["x", "--stop", ""], 2, "--stop must not be empty"),
        (["x", "--logprobs", "1"], 2, "--logprobs needs --json or --batch"),
        (["x", "-o", "out"], 2, "-o goes with --batch only"),
        (["--batch", "in.jsonl"], 2, "--batch needs -o"),
        (["x", "--batch", "in.jsonl", "-o", "out"], 2, "do not go together"),
        (["x", "--raw", "-sys", "s"], 2, "--raw continues the text as it is"),
        (["x", "--temp", "-1"], 2, "temperature"),
        (["x", "--grammar", "root ::= missing"], 3, "Undefined rule"),
        (["x" * 600], 3, "but the context holds 512"),
        (["x", "--no-such-option"], 2, "no-such-option"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(
    model: Path, arguments: list[str], status: int, message: str
) -> None:
    done = generate(model, *arguments, "-t", "1")
    assert done.returncode == status, done.stderr
    assert message in error_of(done)
    assert done.stdout == b""


def test_ctrl_c_ends_the_reply_and_keeps_what_was_said(endless: Path) -> None:
    command = [*GENERATE, endless, "hello", "-c", "0", *FLAGS]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL) as process:
        assert process.stdout
        assert select.select([process.stdout], [], [], 60)[0]
        first = os.read(process.stdout.fileno(), 1)
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert (first + rest).startswith(b"abcabc"[: len(first + rest)])


def test_a_reader_that_leaves_ends_the_program_quietly(endless: Path) -> None:
    command = [*GENERATE, endless, "hello", "-c", "0", "-q", *FLAGS]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.read(3)
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 141


# ---- files of prompts


def test_a_file_of_prompts_with_a_bad_line(model: Path, tmp_path: Path) -> None:
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    source.write_text('{"id": 1, "prompt": "a"}\n{"id": 2}\n{"id": 3, "prompt": "b", "max_tokens": 2}\n')
    done = generate(model, "--batch", source, "-o", output, "--json", *FLAGS)
    assert done.returncode == 3
    assert "line 2: there must be either a prompt or messages" in error_of(done)
    summary = json.loads(done.stdout)
    assert (summary["prompts"], summary["answered"]) == (3, 2)
    answers = [json.loads(line) for line in output.read_text().splitlines()]
    assert [(each["id"], each.get("text")) for each in answers] == [(1, "Hi 🙂!"), (2, None), (3, "Hi")]
    assert generate(model, "--batch", source, "-o", output, "-q", *FLAGS).stdout == f"{output}\n".encode()


def test_ctrl_c_in_a_file_of_prompts_keeps_the_answers(endless: Path, tmp_path: Path) -> None:
    source, output = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    lines = [{"prompt": "a", "max_tokens": 3}, {"prompt": "b"}]
    source.write_text("".join(json.dumps(line) + "\n" for line in lines))
    journal = tmp_path / ".out.jsonl.ggufkit-journal"
    command = [*GENERATE, endless, "--batch", source, "-o", output, "-c", "100000", "-np", "2", *FLAGS]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL) as process:
        while not (journal.exists() and b'"line": 1' in journal.read_bytes()):
            assert process.poll() is None, process.communicate()
        process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=60)
    assert process.returncode == 130, told
    assert b"the same command goes on from here" in told
    assert not output.exists()
    lines[1]["max_tokens"] = 4
    source.write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = generate(endless, *command[len(GENERATE) + 1 :], "--json")
    assert (done.returncode, json.loads(done.stdout)["resumed"]) == (0, 1), done.stderr
    assert [json.loads(line)["text"] for line in output.read_text().splitlines()] == ["abc", "abca"]
