"""What is written into a Modelfile is what Ollama's parser reads back; what it would read otherwise is refused."""

from pathlib import Path

import pytest
import tiny_model
from hypothesis import given
from hypothesis import strategies as st

from ggufkit.errors import UsageError
from ggufkit.exports.ollama import ExportOptions, plan_export
from ggufkit.exports.ollama.messages import Message
from ggufkit.exports.ollama.modelfile import Command, ModelfileError, commands_of, read, write

FROM = Command("from", "/models/m.gguf")


def test_a_whole_modelfile(tmp_path: Path):
    model = tiny_model.write(tmp_path / "my model.gguf")
    options = ExportOptions(
        system='Be "kind".\nAlways.',
        licenses=("MIT",),
        messages=(Message("user", "hi"), Message("assistant", "# not a comment")),
        template="{{ .Prompt }}",
    )
    assert write(commands_of(plan_export(model, options), options)) == (
        f"FROM {model}\n"
        "PARAMETER stop <|im_end|>\n"
        "PARAMETER num_ctx 512\n"
        "TEMPLATE {{ .Prompt }}\n"
        'SYSTEM """Be "kind".\nAlways."""\n'
        "LICENSE MIT\n"
        "MESSAGE user hi\n"
        "MESSAGE assistant # not a comment\n"
    )


# From the documentation of the Modelfile and the tests of Ollama's parser, in our own words.
@pytest.mark.parametrize(
    ("text", "commands"),
    [
        ("FROM a\n", [Command("from", "a")]),
        ("# c\n\n  from   a b \n", [Command("from", "a b")]),
        ("FROM a\nsystem x", [Command("from", "a"), Command("system", "x")]),
        ('FROM a\nSYSTEM "x"\n', [Command("from", "a"), Command("system", "x")]),
        ('FROM a\nSYSTEM """x\ny"""\n', [Command("from", "a"), Command("system", "x\ny")]),
        ('FROM a\nSYSTEM """x\n"""\n', [Command("from", "a"), Command("system", "x\n")]),
        ('FROM a\nSYSTEM ""\n', [Command("from", "a"), Command("system", "")]),
        ('FROM a\nSYSTEM "x" y"\n', [Command("from", "a"), Command("system", 'x" y')]),
        ("FROM a\nSYSTEM x\u200dy\u00a0z\u3000\n", [Command("from", "a"), Command("system", "xyz")]),
        ("FROM a\nPARAMETER stop <|x|>\n", [Command("from", "a"), Command("parameter", "<|x|>", "stop")]),
        ("FROM a\nMESSAGE user hi\n", [Command("from", "a"), Command("message", "hi", "user")]),
    ],
)
def test_the_grammar(text: str, commands: list[Command]):
    assert read(text) == commands


@pytest.mark.parametrize(
    "text",
    [
        "",
        "SYSTEM x\n",
        "FROM",
        "FROM a\nNONSENSE x\n",
        "FROM a\nMESSAGE robot x\n",
        'FROM a\nSYSTEM "x\n',
        "FROM a\n-\n",
    ],
)
def test_what_the_grammar_refuses(text: str):
    with pytest.raises(ModelfileError):
        read(text)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("family 👨\u200d👩", r"U\+200D"),
        ("no\u00a0break", r"U\+00A0"),
        ("full\u3000width", r"U\+3000"),
        ("bell\x07", r"U\+0007"),
        ("null\x00", r"U\+0000"),
        ('a"\nb"""\nc', '"""'),
        ("", "empty"),
    ],
)
def test_text_that_cannot_be_quoted_is_refused_by_name(value: str, reason: str):
    if value == "":
        assert read(write([FROM, Command("system", value)])) == [FROM, Command("system", "")]
        return
    with pytest.raises(UsageError, match=f"SYSTEM .* cannot be written in a Modelfile: .*{reason}") as caught:
        write([FROM, Command("system", value)])
    assert "store takes any text" in (caught.value.hint or "")


@given(st.lists(st.text(st.characters() | st.sampled_from('"\n\t #')), min_size=1, max_size=4))
def test_any_texts_come_back_or_are_refused(values: list[str]):
    commands = [FROM, *(Command("system", value) for value in values)]
    try:
        text = write(commands)
    except UsageError:
        return
    assert read(text) == commands


@given(st.text(st.sampled_from('"\nab ')))
def test_texts_of_quotes_and_newlines_come_back_or_are_refused(value: str):
    test = [FROM, Command("message", value, "user")]
    try:
        text = write(test)
    except UsageError:
        return
    assert read(text) == test
