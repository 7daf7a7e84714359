"""A converted Go template renders every conversation as transformers renders the Jinja template that it comes from."""

import os
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import chat_formats
import pytest
import tiny_model
from chat_formats import FORMATS, Format

from ggufkit.errors import InputError
from ggufkit.exports.ollama.chat import render
from ggufkit.exports.ollama.chat_slots import Jinja
from ggufkit.exports.ollama.go_chat_template import convert
from ggufkit.exports.ollama.messages import Message
from ggufkit.exports.ollama.model_template import adds_bos, go_template_of
from ggufkit.gguf_file.reader import read_header
from ggufkit.inference.templates import ChatTemplate, RoleRefusedError
from ggufkit.inference.templates import Message as Turn

ROOT = Path(__file__).parents[3]
SOURCE = Path(os.environ.get("GGUFKIT_LLAMA_CPP_SOURCE", ROOT / "vendor/llama.cpp/source"))
LETTERS = "abc XYZ 09 .,:;!?'\"`~@#$%^&*()[]{}<>|/\\-_=+\n\té漢字🙂ΩЖ"


def jinja_of(source: str, bos: str, eos: str) -> Jinja:
    template = ChatTemplate(source, bos_text=bos, eos_text=eos)

    def jinja(messages: Sequence[Message]) -> str | None:
        try:
            return template.render([Turn(message.role, message.content) for message in messages])
        except RoleRefusedError:
            return None

    return jinja


def conversations(count: int, *, system: bool, seed: int = 0) -> list[list[Message]]:
    """Random ones: one to seven turns, texts of all sorts that neither begin nor end with blanks."""
    chance = random.Random(seed)

    def text() -> str:
        words = "".join(chance.choice(LETTERS) for _ in range(chance.randrange(1, 60))).strip()
        return words or "word"

    found = []
    for _ in range(count):
        turns = [Message("system", text())] if system and chance.random() < 0.5 else []
        for _ in range(chance.randrange(4)):
            turns += [Message("user", text()), Message("assistant", text())]
        found.append([*turns, Message("user", text())])
    return found


def rendered_by_transformers(given: Format, chats: list[list[Message]]) -> list[str]:
    from transformers.utils.chat_template_utils import render_jinja_template

    rendered, _ = render_jinja_template(
        [[{"role": message.role, "content": message.content} for message in chat] for chat in chats],
        chat_template=given.source,
        add_generation_prompt=True,
        bos_token=given.bos,
        eos_token=given.eos,
    )
    return list(rendered)


@pytest.mark.oracle
@pytest.mark.parametrize("name", FORMATS)
def test_fifty_random_conversations_are_those_of_transformers(name: str):
    given = FORMATS[name]
    found = convert(jinja_of(given.source, given.bos, given.eos), eos=given.eos)
    assert found.family == given.family
    chats = conversations(50, system=given.takes_system)
    for chat, wanted in zip(chats, rendered_by_transformers(given, chats), strict=True):
        assert render(found.source, chat) == wanted


@pytest.mark.oracle
def test_a_first_token_that_the_tokenizer_writes_is_not_written_twice():
    given = FORMATS["llama 3"]
    found = convert(jinja_of(given.source, given.bos, given.eos), bos=given.bos, eos=given.eos)
    assert given.bos not in found.source
    chats = conversations(10, system=True)
    for chat, wanted in zip(chats, rendered_by_transformers(given, chats), strict=True):
        assert given.bos + render(found.source, chat) == wanted


@pytest.mark.oracle
@pytest.mark.engine
@pytest.mark.slow
def test_templates_in_the_wild(figure: Callable[[str, str], None]):
    """Those that llama.cpp ships: nearly all have a Go template, and each of these is right."""
    files = sorted((SOURCE / "models/templates").glob("*.jinja"))
    assert len(files) > 50
    converted = []
    for file in files:
        given = Format(file.read_text(), "", "<s>", "</s>")
        try:
            found = convert(jinja_of(given.source, given.bos, given.eos), eos=given.eos)
        except InputError:
            continue
        converted.append(file.name)
        system = not any("refuses system" in warning for warning in found.warnings)
        chats = conversations(6, system=system, seed=7)
        for chat, wanted in zip(chats, rendered_by_transformers(given, chats), strict=True):
            assert render(found.source, chat) == wanted, file.name
    figure("chat templates of llama.cpp as Go templates", f"{len(converted)} of {len(files)}")
    assert len(converted) > 0.9 * len(files)


# ---- what is not the same is said, or refused


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("{{ loop.index }}. {{ message.content }}\n", "it makes .* and the Go template"),
        ("{{ message.content | upper }}\n", "no time into what it renders"),
        ("{{ message.content }}{{ message.content }}\n", "more than one time"),
        ("{{ message.content | length }} {{ message.content }}\n", "it makes"),
        (
            "{% if loop.index > 4 %}{{ raise_exception('too long') }}{% endif %}{{ message.content }}\n",
            "refuses a conv",
        ),
        ("{{ message.nothing.at_all }}{{ message.content }}", "the chat template fails"),
        ("{% if loop.length > 1 %}{{ raise_exception('no') }}{% endif %}{{ message.content }}", "several turns"),
    ],
)
def test_a_template_without_a_go_template_is_refused_with_the_first_difference(change: str, message: str):
    source = "{% for message in messages %}{{ message.role }}: " + change + "{% endfor %}"
    with pytest.raises(InputError, match=message):
        convert(jinja_of(source, "<s>", "</s>"))


@pytest.mark.parametrize(("prompt", "warned"), [("{{ '<|assistant|>' }}", False), ("", True)])
def test_a_template_that_does_not_begin_the_answer_is_told_of(prompt: str, warned: bool):
    source = "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}{% endfor %}" + prompt
    found = convert(jinja_of(source, "<s>", "</s>"))
    assert any("does not begin the answer" in text for text in found.warnings) is warned


@pytest.mark.parametrize(
    ("name", "warning"),
    [
        ("gemma 2", "refuses system messages"),
        ("gemma 3", "trims blanks"),
        ("chatml that may think", "reasoning out of earlier answers"),
    ],
)
def test_what_a_go_template_cannot_do_is_said(name: str, warning: str):
    given = FORMATS[name]
    found = convert(jinja_of(given.source, given.bos, given.eos), bos=given.bos, eos=given.eos)
    assert [text for text in found.warnings if warning in text]


def test_a_system_message_that_a_template_refuses_goes_before_the_first_question():
    given = FORMATS["gemma 2"]
    found = convert(jinja_of(given.source, given.bos, given.eos), bos=given.bos)
    chat = [Message("system", "Be kind."), Message("user", "Hi"), Message("assistant", "Ho"), Message("user", "Hm")]
    assert render(found.source, chat) == (
        "<start_of_turn>user\nBe kind.\n\nHi<end_of_turn>\n<start_of_turn>model\nHo<end_of_turn>\n"
        "<start_of_turn>user\nHm<end_of_turn>\n<start_of_turn>model\n"
    )


def test_an_answer_that_is_begun_is_left_open():
    given = FORMATS["chatml"]
    found = convert(jinja_of(given.source, given.bos, given.eos))
    chat = [Message("user", "Hi"), Message("assistant", "Well")]
    assert render(found.source, chat) == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nWell"


def test_ollama_joins_neighbours_of_one_role():
    given = FORMATS["chatml"]
    found = convert(jinja_of(given.source, given.bos, given.eos))
    chat = [Message("system", "a"), Message("system", "b"), Message("user", "c"), Message("user", "d")]
    assert render(found.source, chat) == (
        "<|im_start|>system\na\n\nb<|im_end|>\n<|im_start|>user\nc\n\nd<|im_end|>\n<|im_start|>assistant\n"
    )


def test_the_template_of_a_model_file(tmp_path: Path):
    header = read_header(tiny_model.write(tmp_path / "m.gguf"))
    assert go_template_of(header).family == "ChatML"
    with_date = chat_formats.tagged("message.role + ': ' + message.content + '\\n'", "assistant: ")
    with_date = "{{ strftime_now('%d %b %Y') }}\n{% if tools %}{% endif %}" + with_date
    found = go_template_of(read_header(tiny_model.write(tmp_path / "d.gguf", template=with_date)))
    assert [text for text in found.warnings if "the date" in text]
    assert [text for text in found.warnings if "tools" in text]
    with pytest.raises(InputError, match="no chat template"):
        go_template_of(read_header(tiny_model.write(tmp_path / "n.gguf", template=None)))


@pytest.mark.parametrize("add_bos", [True, False])
def test_whether_the_tokenizer_writes_the_first_token(add_bos: bool, tmp_path: Path):
    path = tiny_model.write(tmp_path / "m.gguf", template="{{ bos_token }}" + tiny_model.CHATML, add_bos=add_bos)
    header = read_header(path)
    assert adds_bos(header) is add_bos
    assert ("<|endoftext|>" in go_template_of(header).source) is not add_bos
