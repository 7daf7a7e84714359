"""Texts to calibrate with: split where they may be, sifted, shuffled the same way for the same seed."""

import json
from pathlib import Path

import pytest

from ggufkit.errors import InputError
from ggufkit.quantization.calibration import (
    compose,
    conversation,
    read_passages,
    split_code,
    split_markdown,
    split_text,
)

LONG = "A sentence that is long enough to be kept, and says nothing."


def test_prose_is_split_at_blank_lines():
    assert list(split_text("\n one\ntwo\n\n \n three \n")) == ["one\ntwo", "three"]


def test_markdown_keeps_headings_with_their_text_and_code_whole():
    text = "# Title\n\nFirst.\n\n## Next\n\n```python\na = 1\n\n\nb = 2\n```\nmore\n\n- one\n- two\n"
    assert list(split_markdown(text)) == [
        "# Title\n\nFirst.",
        "## Next\n\n```python\na = 1\n\n\nb = 2\n```\nmore",
        "- one\n- two",
    ]


def test_code_is_split_between_definitions():
    first = "import os\n\nfrom pathlib import Path\n\n\ndef one() -> int:\n    a = 1\n\n    return a"
    second = "def two() -> str:\n    return 'a text of some length, so that it counts'"
    third = "class Three:\n    x = 1"
    assert list(split_code(f"{first}\n\n\n{second}\n\n\n{third}\n"))[-2:] == [second, third]
    assert "".join(split_code("a {\n\n}\n")) == "a {\n\n}"


@pytest.mark.parametrize(
    "document",
    [
        {"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]},
        {"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]},
        [{"role": "user", "content": "Q"}, {"role": "assistant", "content": [{"type": "text", "text": "A"}]}],
        {"instruction": "Q", "input": "", "output": "A"},
        {"prompt": "Q", "response": "A"},
        {"question": "Q", "answer": "A", "source": "a book"},
    ],
)
def test_chats_of_all_usual_forms_are_understood(document):
    assert conversation(document) == [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}]


@pytest.mark.parametrize("document", [{"text": "T"}, {"messages": [1]}, {"messages": []}, 7, "T", {"role": "user"}])
def test_what_is_no_chat_is_none(document):
    assert conversation(document) is None


def test_files_of_all_kinds_are_mixed(tmp_path: Path):
    (tmp_path / "a.txt").write_text(f"{LONG} One.\r\n\r\nshort\r\n\r\n{LONG} Two.")
    (tmp_path / "b.md").write_text(f"# Three\n\n{LONG}")
    (tmp_path / "c.jsonl").write_text(
        json.dumps({"prompt": LONG, "response": "Yes."}) + "\n\n" + json.dumps({"text": f"{LONG} Four."}) + "\n"
    )
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "d.py").write_text("def five():\n    return 'five times five is twenty-five, or is it not?'\n")
    (tmp_path / "more" / "e.txt").write_text(f"{LONG}   one.\n\n{LONG} Six.")  # the first is known already
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    found = read_passages([tmp_path], lambda messages: f"<user>{messages[0]['content']}<bot>{messages[1]['content']}")
    assert sorted(found.texts) == sorted(
        [
            f"{LONG} One.",
            f"{LONG} Two.",
            f"# Three\n\n{LONG}",
            f"<user>{LONG}<bot>Yes.",
            f"{LONG} Four.",
            "def five():\n    return 'five times five is twenty-five, or is it not?'",
            f"{LONG} Six.",
        ]
    )
    assert (found.chats, found.short, found.repeated) == (1, 1, 1)
    assert f"{LONG}\n\nYes." in read_passages([tmp_path / "c.jsonl"]).texts  # without a template


def test_a_very_long_passage_is_cut(tmp_path: Path):
    words = [f"word{number}" for number in range(5000)]
    (tmp_path / "a.txt").write_text(" ".join(words))
    found = read_passages([tmp_path / "a.txt"])
    assert len(found.texts) == 6
    assert "".join(found.texts).split() == words


def test_the_seed_decides_and_the_order_of_the_files_does_not():
    passages = [f"{LONG} {number}." for number in range(50)]
    whole = compose(passages, seed=1, tokens=None, count_tokens=len)
    assert whole == compose(reversed(passages), seed=1, tokens=None, count_tokens=len)
    assert whole != compose(passages, seed=2, tokens=None, count_tokens=len)
    assert sorted(whole.strip().split("\n\n")) == sorted(passages)
    part = compose(passages, seed=1, tokens=300, count_tokens=len)
    assert whole.startswith(part.rstrip("\n"))
    assert 300 <= len(part) < 500


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.txt", b"short", "no passage of at least 40 characters"),
        ("a.txt", b"\xff\xfe\x00", "as UTF-8 text"),
        ("a.txt", b"a\0b", "no text: it holds a zero byte"),
        ("a.jsonl", b'{"text": "x"}\n{', r"a\.jsonl:2 is not valid JSON"),
        ("a.jsonl", b'{"picture": 1}\n', r"a\.jsonl:1: neither a chat nor a text"),
        ("a.json", b"[", "is not valid JSON"),
    ],
)
def test_files_that_cannot_be_used_are_refused(name: str, content: bytes, reason: str, tmp_path: Path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=reason):
        read_passages([tmp_path / name])


def test_what_is_not_there_is_refused(tmp_path: Path):
    with pytest.raises(InputError, match="no such file"):
        read_passages([tmp_path / "nothing.txt"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no text, markdown, chats or code"):
        read_passages([tmp_path / "empty"])
