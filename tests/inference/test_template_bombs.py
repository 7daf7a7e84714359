"""Template bombs where templates are rendered: limits hold for one rendering, and for all of a template together."""

from pathlib import Path

import pytest
import template_bombs
import tiny_model
from memory_peak import MemoryPeak

from ggufkit.errors import InputError
from ggufkit.evaluation import chat_templates
from ggufkit.exports.ollama.model_template import go_template_of
from ggufkit.gguf_file.reader import read_header
from ggufkit.inference import template_sandbox
from ggufkit.inference.template_trial import refuse_bombs
from ggufkit.inference.templates import ChatTemplate, Message, TemplateBombError
from ggufkit.inspection.preview import preview


@pytest.fixture(autouse=True)
def less_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bombs that only a clock stops take as long as they may."""
    monkeypatch.setattr(template_sandbox, "SECONDS", 0.4)


HELLO = [Message("user", "hi")]


@pytest.mark.parametrize("name", template_bombs.BOMBS)
def test_a_bomb_is_told_from_what_merely_fails(name: str) -> None:
    memory = MemoryPeak()
    with pytest.raises(TemplateBombError):
        ChatTemplate(template_bombs.BOMBS[name]).render(HELLO)
    assert memory.grown() < 600 * 2**20


def test_a_template_has_its_time_only_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_sandbox, "SECONDS", 2.0)
    now = [0.0]
    monkeypatch.setattr("time.thread_time", lambda: now[0])
    template = ChatTemplate("{% for i in range(n) %}{{ tick() }}{% endfor %}")

    def tick() -> str:
        now[0] += 0.1
        return ""

    template.render(HELLO, variables={"n": 15, "tick": tick})
    with pytest.raises(TemplateBombError, match="runs for seconds"):
        template.render(HELLO, variables={"n": 15, "tick": tick})
    template.render(HELLO, variables={"n": 1, "tick": tick})  # what takes no time is always rendered


@pytest.mark.parametrize("name", ["nested loops", "power", "deep brackets", "recursive macro"])
def test_no_bomb_reaches_another_program_s_jinja(name: str, tmp_path: Path) -> None:
    path = tiny_model.write(tmp_path / "m.gguf", template=template_bombs.BOMBS[name])
    header = read_header(path)
    with pytest.raises(TemplateBombError):
        refuse_bombs(header, None, {})
    with pytest.raises(InputError):
        go_template_of(header)
    assert chat_templates._bomb(template_bombs.BOMBS[name], {})
    assert any("cannot be rendered" in warning for warning in preview(path).warnings)


@pytest.mark.parametrize("condition", ["tools", "not add_generation_prompt", "messages[0].role == 'system'", "enable"])
def test_a_bomb_behind_a_condition_is_found_before_serving(condition: str, tmp_path: Path) -> None:
    template = "{% if " + condition + " %}" + template_bombs.BOMBS["times"] + "{% endif %}hello"
    header = read_header(tiny_model.write(tmp_path / "m.gguf", template=template))
    with pytest.raises(TemplateBombError):
        refuse_bombs(header, None, {"enable": True})
    with pytest.raises(TemplateBombError):
        refuse_bombs(read_header(tiny_model.write(tmp_path / "n.gguf")), template, {"enable": True})


def test_what_merely_fails_is_left_to_the_server(tmp_path: Path) -> None:
    for template in ("{% for %}", "{{ raise_exception('no') }}", "{{ a.b.c }}", tiny_model.CHATML):
        refuse_bombs(read_header(tiny_model.write(tmp_path / "m.gguf", template=template)), None, {})
