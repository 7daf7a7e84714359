"""Reasoning is found by what templates do, asked for by what they read, and told from the answer while it streams."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggufkit.inference.reasoning import Markers, Reasoning, Splitter, find_markers, switch
from ggufkit.inference.templates import ChatTemplate, Message
from ggufkit.llamacpp.find import find_source

THINK = Markers(known=True)
HARMONY = Markers(
    "<|channel|>analysis<|message|>",
    "<|end|>",
    "<|start|>assistant",
    "<|channel|>final<|message|>",
    known=True,
    everywhere=True,
)


def split(markers: Markers, pieces: list[str], *, thinking: bool = False) -> tuple[str, str]:
    splitter = Splitter(markers, thinking=thinking)
    parts = [part for piece in pieces for part in splitter.feed(piece)] + list(splitter.finish())
    return "".join(text for text, thought in parts if thought), "".join(text for text, thought in parts if not thought)


@pytest.mark.parametrize(
    ("markers", "thinking", "reply", "reasoning", "answer"),
    [
        (THINK, False, "Hello <b>there</b>", "", "Hello <b>there</b>"),
        (THINK, False, "  spaces stay", "", "  spaces stay"),
        (THINK, False, "\n<think>\nhm\n</think>\n\nYes.\n", "hm\n", "Yes.\n"),
        (THINK, False, "<think></think>Yes.", "", "Yes."),
        (THINK, False, "Write <think> to begin, </think> to end.", "", "Write <think> to begin, </think> to end."),
        (THINK, False, "<think>a < b </thin k></think>c <think>d</think>", "a < b </thin k>", "c <think>d</think>"),
        (THINK, False, "<think>cut off", "cut off", ""),
        (THINK, False, "<thi", "", "<thi"),
        (THINK, True, "\nhm</think> Yes", "hm", "Yes"),
        (THINK, True, "hm </thi", "hm </thi", ""),
        (HARMONY, False, "<|channel|>final<|message|>Yes", "", "Yes"),
        (
            HARMONY,
            False,
            "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>Yes",
            "hm",
            "Yes",
        ),
        (
            HARMONY,
            False,
            (
                "<|channel|>analysis<|message|>one<|end|>"
                "<|start|>assistant<|channel|>analysis<|message|>, two<|end|>"
                "<|start|>assistant<|channel|>final<|message|>Yes"
            ),
            "one, two",
            "Yes",
        ),
    ],
)
def test_reasoning_and_answer_are_told_apart_however_the_text_is_cut(
    markers: Markers, thinking: bool, reply: str, reasoning: str, answer: str
) -> None:
    for size in (1, 2, 3, 7, len(reply)):
        pieces = [reply[at : at + size] for at in range(0, len(reply), size)]
        assert split(markers, pieces, thinking=thinking) == (reasoning, answer)


@given(st.lists(st.sampled_from(["<think>", "</think>", "<", "/th", "ink>", " ", "\n", "a", "🙂"])), st.booleans())
def test_no_text_is_lost_or_made_up(pieces: list[str], thinking: bool) -> None:
    reasoning, answer = split(THINK, pieces, thinking=thinking)
    text = "".join(pieces)
    rest = text.replace("<think>", "", 1).replace("</think>", "", 1)
    assert "".join((reasoning + answer).split()) in {"".join(text.split()), "".join(rest.split())} | {
        "".join(text.replace(mark, "", 1).split()) for mark in ("<think>", "</think>")
    }


def test_what_is_sure_is_not_held_back() -> None:
    splitter = Splitter(THINK, thinking=True)
    assert list(splitter.feed("one two <")) == [("one two ", True)]
    assert list(splitter.feed("b>")) == [("<b>", True)]


# ---- templates


def template(name: str) -> ChatTemplate:
    path = find_source() / "models" / "templates" / f"{name}.jinja"
    return ChatTemplate(path.read_text(encoding="utf-8"), bos_text="<s>", eos_text="</s>")


SHIPPED = {  # name: start and end as the makers of the models document them
    "Qwen-Qwen3-0.6B": ("<think>", "</think>"),
    "Qwen3.5-4B": ("<think>", "</think>"),
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B": ("<think>", "</think>"),
    "deepseek-ai-DeepSeek-V3.1": ("<think>", "</think>"),
    "ByteDance-Seed-OSS": ("<seed:think>", "</seed:think>"),
    "CohereForAI-c4ai-command-r7b-12-2024-tool_use": ("<|START_THINKING|>", "<|END_THINKING|>"),
    "mistralai-Ministral-3-14B-Reasoning-2512": ("[THINK]", "[/THINK]"),
    "google-gemma-4-31B-it": ("<|channel>thought", "<channel|>"),
    "openai-gpt-oss-120b": ("<|channel|>analysis<|message|>", "<|end|>"),
    "upstage-Solar-Open-100B": ("<|think|>", "<|end|>"),
    "MiniMax-M3": ("<mm:think>", "</mm:think>"),
    "unsloth-Apriel-1.5": ("<thinking>", "</thinking>"),
    "Apriel-1.6-15b-Thinker-fixed": ("Here are my reasoning steps:", "[BEGIN FINAL RESPONSE]"),
    "ibm-granite-granite-3.3-2B-Instruct": ("<think>", "</think>"),
}


@pytest.mark.engine
@pytest.mark.parametrize("name", SHIPPED)
def test_markers_are_found_in_what_templates_write(name: str) -> None:
    markers = find_markers(template(name), lambda _: False)
    assert markers.known
    assert (markers.start, markers.end) == SHIPPED[name]


@pytest.mark.engine
@pytest.mark.parametrize("name", ["Qwen-Qwen2.5-7B-Instruct", "meta-llama-Llama-3.3-70B-Instruct", "LFM2-8B-A1B"])
def test_a_template_without_reasoning_has_no_markers_of_its_own(name: str) -> None:
    markers = find_markers(template(name), lambda _: False)
    assert not markers.known
    assert not switch(template(name), markers, Reasoning.ON).works
    assert switch(template(name), markers, Reasoning.OFF).prefill == ""


@pytest.mark.engine
@pytest.mark.parametrize("name", SHIPPED)
def test_off_leaves_no_prompt_within_reasoning_and_on_is_not_the_same(name: str) -> None:
    source = template(name)
    markers = find_markers(source, lambda _: False)
    prompts = {}
    for wish in (Reasoning.ON, Reasoning.OFF):
        told = switch(source, markers, wish)
        assert told.works
        prompts[wish] = source.render([Message("user", "hi")], variables=told.variables) + told.prefill
    assert prompts[Reasoning.ON] != prompts[Reasoning.OFF]
    assert not markers.is_open(prompts[Reasoning.OFF])


def test_the_wish_for_none_is_told_by_the_variable_that_the_template_reads() -> None:
    source = ChatTemplate("{% if thinking_mode == 'disabled' %}no{% elif thinking_mode == 'enabled' %}yes{% endif %}")
    markers = find_markers(source, lambda _: False)
    assert switch(source, markers, Reasoning.OFF).variables == {"thinking_mode": "disabled"}
    assert switch(source, markers, Reasoning.ON).variables == {"thinking_mode": "enabled"}
    assert switch(source, markers, Reasoning.AUTO).variables == {}


def test_tokens_of_the_vocabulary_tell_where_the_template_does_not() -> None:
    source = ChatTemplate("{{ messages[0].content }}")
    markers = find_markers(source, lambda text: "THINK" in text)
    assert (markers.start, markers.end, markers.everywhere) == ("[THINK]", "[/THINK]", True)


def test_reasoning_reaches_the_template_under_every_name(tmp_path: Path) -> None:
    source = ChatTemplate("{{ messages[0].reasoning_content }}{{ messages[0].thinking }}{{ messages[0].reasoning }}")
    assert source.render([Message("assistant", "x", "a")]) == "aaa"
    assert source.render([Message("assistant", "x")]) == ""
