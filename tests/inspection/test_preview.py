"""What `inspect --template` shows of a conversation, judged by libllama's own tokens, and what it warns of."""

from pathlib import Path

import pytest
import tiny_model

from ggufkit.inference.templates import Message
from ggufkit.inspection.preview import preview

pytestmark = [pytest.mark.engine]

PLAIN = "{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}"
TALK = (Message("user", "Hello"),)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model.write(tmp_path_factory.mktemp("preview") / "tiny.gguf")


def test_tokens_and_marks(model: Path) -> None:
    shown = preview(model, TALK)
    assert shown.warnings == ()
    assert shown.text == "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    assert shown.tokens is not None
    assert "".join(token.text for token in shown.tokens) == shown.text
    assert [token.text for token in shown.tokens if token.control] == ["<|im_start|>", "<|im_end|>", "<|im_start|>"]
    assert [token.text for token in shown.tokens if token.ends] == ["<|im_end|>"]


@pytest.mark.parametrize(
    ("source", "warning"),
    [
        (PLAIN, "missing EOS/EOT: what follows an answer is '\\n'"),
        ("{{ messages[0]['content'] }}", "does not repeat what the assistant said"),
        ("{% for m in messages %}", "cannot be rendered: the chat template is not valid"),
        ("{{ nothing.at.all }}", "cannot be rendered: the chat template fails"),
        ("{% for i in range(10**9) %}x{% endfor %}", "cannot be rendered"),
        (tiny_model.CHATML.replace("<|im_end|>", "<|eot_id|>"), "<|eot_id|> is written as ordinary text"),
        (
            "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}" + tiny_model.CHATML,
            "system messages are put into the first question",
        ),
    ],
)
def test_warnings(model: Path, source: str, warning: str) -> None:
    messages = (Message("system", "Be brief."), *TALK)
    assert any(warning in each for each in preview(model, messages, source=source).warnings)


def test_a_double_bos(tmp_path: Path) -> None:
    twice = "{{ bos_token }}" + tiny_model.CHATML
    wanting = tiny_model.write(tmp_path / "bos.gguf", add_bos=True, template=twice)
    assert any(warning.startswith("double BOS: the template writes") for warning in preview(wanting, TALK).warnings)
    content = tiny_model.write(tmp_path / "none.gguf", add_bos=False, template=twice)
    assert not any("double BOS" in warning for warning in preview(content, TALK).warnings)
    both = preview(content, TALK, source="{{ bos_token }}" + twice)
    assert any("twice" in warning for warning in both.warnings)


def test_no_template(tmp_path: Path) -> None:
    shown = preview(tiny_model.write(tmp_path / "bare.gguf", template=None), TALK)
    assert shown.text == ""
    assert "there is no chat template" in shown.warnings[0]
