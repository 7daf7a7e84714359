"""Files of prompts: read, answered in order, interrupted at any answer, and gone on with."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import tiny_model

from ggufkit.errors import InputError, OutputError, UsageError
from ggufkit.inference import batch_file
from ggufkit.inference.batch_job import BatchOptions, BatchSummary, run_file
from ggufkit.inference.options import CacheType, EngineOptions

pytestmark = pytest.mark.engine

ENGINE = EngineOptions(threads=1)
GREEDY = BatchOptions(sampling={"temperature": 0.0}, max_tokens=8)

KILLED = """
import os, signal, sys
from pathlib import Path
from ggufkit.inference.batch_job import BatchOptions, run_file
from ggufkit.inference.options import EngineOptions
def progress(stage, done, total, unit):
    if stage == "Answering" and done == int(sys.argv[4]):
        os.kill(os.getpid(), signal.SIGKILL)
model, source, output = map(Path, sys.argv[1:4])
options = BatchOptions(sampling={"temperature": 0.0}, max_tokens=8, sequences=2)
run_file(model, source, output, EngineOptions(threads=1), options, progress=progress)
"""


def write(path: Path, lines: list[Any]) -> Path:
    path.write_text("".join((each if isinstance(each, str) else json.dumps(each)) + "\n" for each in lines))
    return path


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def questions(count: int) -> list[dict[str, Any]]:
    return [{"id": f"q{number}", "prompt": "word " * (1 + number * 7 % 13)} for number in range(count)]


# ---- lines


def test_a_line_says_what_is_different_for_it() -> None:
    line = batch_file.parse(
        b'{"custom_id": 7, "messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}], '
        b'"max_tokens": 3, "temperature": 1, "seed": 5, "stop": "x", "top_k": null}'
    )
    assert line.carried == {"custom_id": 7}
    assert (line.messages[0].role, line.messages[0].content) == ("user", "Hi")
    assert (line.max_tokens, line.stop) == (3, ("x",))
    assert line.sampling == {"temperature": 1, "seed": 5}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"nonsense", "not JSON"),
        (b"[1]", "not a JSON object"),
        (b'"x"', "not a JSON object"),
        (b'{"prompt": "\xff"}', "not UTF-8"),
        (b"[" * 100_000, "not JSON"),
        (b'{"prompt": "a", "id": NaN}', "NaN is no number of JSON"),
        (b'{"prompt": "a", "metadata": [-1e999]}', "too large a number"),
        (b"{}", "either a prompt or messages"),
        (b'{"prompt": "a", "messages": [{"role": "user", "content": "b"}]}', "either a prompt or messages"),
        (b'{"prompt": 3}', "prompt must be a text"),
        (b'{"messages": []}', "at least one message"),
        (b'{"messages": [{"role": "robot", "content": ""}]}', "a role of system, user, assistant"),
        (b'{"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}', "a text as its content"),
        (b'{"prompt": "a", "tempature": 1}', "did you mean 'temperature'"),
        (b'{"prompt": "a", "temperature": "hot"}', "temperature must be a number"),
        (b'{"prompt": "a", "temperature": -1}', "temperature must be between 0 and 1000"),
        (b'{"prompt": "a", "temperature": 1' + b"0" * 400 + b"}", "temperature must be between 0 and 1000"),
        (b'{"prompt": "a", "top_k": true}', "top_k must be a whole number"),
        (b'{"prompt": "a", "max_tokens": 0}', "1 or more"),
        (b'{"prompt": "a", "stop": [""]}', "none of them empty"),
        (b'{"prompt": "a", "json_schema": [1]}', "must be an object"),
        (b'{"prompt": "a", "json_schema": {}, "grammar": "root ::= x"}', "cannot be given together"),
    ],
)
def test_a_line_that_makes_no_sense_is_refused(line: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message):
        batch_file.parse(line)


# ---- files


def answer(model: Path, source: Path, output: Path, options: BatchOptions = GREEDY) -> BatchSummary:
    return run_file(model, source, output, ENGINE, options)


def test_answers_come_in_the_order_of_the_prompts_whatever_their_length(random_model: Path, tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", questions(20))
    summary = answer(random_model, source, tmp_path / "out.jsonl")
    assert [each["id"] for each in read(tmp_path / "out.jsonl")] == [f"q{number}" for number in range(20)]
    assert (summary.prompts, summary.answered, summary.resumed) == (20, 20, 0)
    assert {path.name for path in tmp_path.iterdir()} == {"in.jsonl", "out.jsonl"}


def test_bad_lines_are_told_and_the_others_answered(random_model: Path, tmp_path: Path) -> None:
    lines: list[Any] = [
        {"id": 1, "prompt": "one"},
        "",
        "nonsense",
        "[" * 100_000,
        {"id": 2, "prompt": "x" * 2000},
        {"id": 3, "prompt": "three", "grammar": "root ::= missing"},
        {"id": 4, "prompt": "four", "grammar": 'root ::= "a"{3,2}'},
        {"id": 5, "prompt": "five", "metadata": {"a": [1]}},
    ]
    told: list[tuple[int, str]] = []
    source = write(tmp_path / "in.jsonl", lines)
    summary = run_file(
        random_model, source, tmp_path / "out.jsonl", ENGINE, GREEDY, on_bad=lambda *each: told.append(each)
    )
    first, *bad, last = read(tmp_path / "out.jsonl")
    assert (first["id"], first["line"]) == (1, 1)
    assert (last["id"], last["metadata"], last["line"]) == (5, {"a": [1]}, 8)
    assert [(each.get("id"), each["line"]) for each in bad] == [(None, 3), (None, 4), (2, 5), (3, 6), (4, 7)]
    assert "not JSON" in bad[0]["error"]
    assert "not JSON" in bad[1]["error"]
    assert "the context holds 512" in bad[2]["error"]
    assert "Undefined rule" in bad[3]["error"]
    assert "at least 3 and at most 2 times" in bad[4]["error"]
    assert sorted(told) == sorted(summary.bad) == [(each["line"], each["error"]) for each in bad]
    assert summary.answered == 2


def test_what_comes_back_is_what_was_sent(random_model: Path, tmp_path: Path) -> None:
    """Half a surrogate pair is no UTF-8, but JSON can say it; a table with gaps writes 3 as 3.0."""
    source = write(tmp_path / "in.jsonl", ['{"id": "\\ud83d", "prompt": "one", "max_tokens": 3.0, "top_k": 40.0}'])
    answer(random_model, source, tmp_path / "out.jsonl")
    (only,) = read(tmp_path / "out.jsonl")
    assert (only["id"], only["generated_tokens"]) == ("\ud83d", 3)


def test_a_pipe_is_read_as_a_file_is(random_model: Path, tmp_path: Path) -> None:
    source = write(tmp_path / "in.jsonl", questions(5))
    answer(random_model, source, tmp_path / "out.jsonl")
    os.mkfifo(tmp_path / "pipe")
    writer = threading.Thread(target=lambda: (tmp_path / "pipe").write_bytes(source.read_bytes()))
    writer.start()
    answer(random_model, tmp_path / "pipe", tmp_path / "piped.jsonl")
    writer.join()
    assert [each["text"] for each in read(tmp_path / "piped.jsonl")] == [
        each["text"] for each in read(tmp_path / "out.jsonl")
    ]


@pytest.mark.fault
@pytest.mark.parametrize("killed_at", [0, 1, 7])
def test_a_killed_run_goes_on_where_it_was(random_model: Path, tmp_path: Path, killed_at: int) -> None:
    source, output = write(tmp_path / "in.jsonl", [*questions(10), "bad"]), tmp_path / "out.jsonl"
    answer(random_model, source, tmp_path / "whole.jsonl")
    command = [sys.executable, "-c", KILLED, random_model, source, output, str(killed_at)]
    done = subprocess.run(command, capture_output=True, timeout=60, check=False)
    assert done.returncode == -9, done.stderr
    assert not output.exists()
    with (tmp_path / ".out.jsonl.ggufkit-journal").open("ab") as journal:
        journal.write(b'9 0123456789abcdef {"half')  # as when the machine itself had died
    summary = answer(random_model, source, output)
    assert (summary.prompts, summary.answered, summary.resumed) == (11, 10, killed_at)
    assert [line for line, _ in summary.bad] == [11]  # of which the killed run had told already
    kept = ("id", "line", "text", "error")
    answers = [{name: each.get(name) for name in kept} for each in read(output)]
    assert answers == [{name: each.get(name) for name in kept} for each in read(tmp_path / "whole.jsonl")]
    assert {path.name for path in tmp_path.iterdir()} == {"in.jsonl", "out.jsonl", "whole.jsonl"}


def test_a_line_that_was_changed_meanwhile_is_answered_again(random_model: Path, tmp_path: Path) -> None:
    lines = questions(6)
    source, output = write(tmp_path / "in.jsonl", lines), tmp_path / "out.jsonl"
    command = [sys.executable, "-c", KILLED, random_model, source, output, "6"]
    subprocess.run(command, capture_output=True, timeout=60, check=False)
    write(source, [*lines[:3], {"id": "new", "prompt": "another"}, *lines[4:], {"id": "more", "prompt": "grown"}])
    assert answer(random_model, source, output).resumed == 5
    assert [each["id"] for each in read(output)] == ["q0", "q1", "q2", "new", "q4", "q5", "more"]


@pytest.mark.fault
@pytest.mark.parametrize(
    ("at", "damage"),
    [("head", b"\0" * 40), ("head", b"[1]"), ("middle", b'{"format": '), ("middle", b"9" * 5000 + b" a {}")],
    ids=["head of zeros", "head of another version", "half a line", "endless number"],
)
def test_a_damaged_journal_costs_answers_and_nothing_else(
    random_model: Path, tmp_path: Path, at: str, damage: bytes
) -> None:
    source, output = write(tmp_path / "in.jsonl", questions(4)), tmp_path / "out.jsonl"
    journal = tmp_path / ".out.jsonl.ggufkit-journal"
    subprocess.run(
        [sys.executable, "-c", KILLED, random_model, source, output, "3"], capture_output=True, timeout=60, check=False
    )
    lines = journal.read_bytes().splitlines(keepends=True)
    place = {"head": 0, "middle": 2}[at]
    journal.write_bytes(b"".join([*lines[:place], damage + b"\n", *lines[place + 1 :]]))
    if (at, damage) == ("head", b"[1]"):  # that is JSON: it may be what another version wrote
        with pytest.raises(UsageError, match="left answers"):
            answer(random_model, source, output)
        return
    assert answer(random_model, source, output).resumed == (1 if at == "middle" else 0)
    assert [each["id"] for each in read(output)] == ["q0", "q1", "q2", "q3"]


def test_other_options_do_not_mix_with_what_is_there(random_model: Path, tmp_path: Path) -> None:
    source, output = write(tmp_path / "in.jsonl", questions(6)), tmp_path / "out.jsonl"
    command = [sys.executable, "-c", KILLED, random_model, source, output, "3"]
    subprocess.run(command, capture_output=True, timeout=60, check=False)
    other = BatchOptions(sampling={"temperature": 0.0}, max_tokens=9)
    with pytest.raises(UsageError, match="other options") as caught:
        answer(random_model, source, output, other)
    assert "--again" in str(caught.value.hint)
    rounded = EngineOptions(threads=1, cache_type_k=CacheType.Q8_0)
    with pytest.raises(UsageError, match="other options"):
        run_file(random_model, source, output, rounded, GREEDY)
    again = BatchOptions(sampling={"temperature": 0.0}, max_tokens=9, again=True)
    assert answer(random_model, source, output, again).resumed == 0


def test_a_reply_is_taken_apart_at_its_markers(tmp_path: Path) -> None:
    think, end = tiny_model.token("<think>"), tiny_model.token("</think>")
    said = [think, *tiny_model.ids("hm"), end, *tiny_model.ids("Yes")]
    start = tiny_model.token("\u010a")
    model = tiny_model.write(tmp_path / "m.gguf", successors=tiny_model.chain(start, said))
    source = write(tmp_path / "in.jsonl", [{"prompt": "a?"}])
    answer(model, source, tmp_path / "out.jsonl", BatchOptions(sampling={"temperature": 0.0}))
    [line] = read(tmp_path / "out.jsonl")
    assert (line["text"], line["reasoning"]) == ("Yes", "hm")


def test_files_that_cannot_be_are_refused(random_model: Path, tmp_path: Path) -> None:
    empty = write(tmp_path / "empty.jsonl", ["", "  "])
    with pytest.raises(InputError, match="holds no prompts"):
        answer(random_model, empty, tmp_path / "out.jsonl")
    with pytest.raises(InputError, match="cannot read"):
        answer(random_model, tmp_path / "missing.jsonl", tmp_path / "out.jsonl")
    with pytest.raises(UsageError, match="same file"):
        answer(random_model, empty, empty)
    with pytest.raises(OutputError, match="does not exist"):
        answer(random_model, empty, tmp_path / "missing/out.jsonl")
