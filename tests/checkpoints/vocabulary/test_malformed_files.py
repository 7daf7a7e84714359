"""Whatever JSON the tokenizer files hold, the answer is metadata or a CheckpointError, never another exception."""

import contextlib
import copy
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizer_samples import BYTE_LEVEL, MERGING, UNIGRAM, WORDPIECE

from ggufkit.checkpoints.vocabulary import VocabularyStyle, tokenizer_metadata
from ggufkit.errors import CheckpointError

TOKENIZER_CONFIG: dict[str, Any] = {
    "add_bos_token": True,
    "add_prefix_space": False,
    "added_tokens_decoder": {"6": {"content": "<x>", "special": False}},
    "additional_special_tokens": ["<x>"],
    "bos_token": {"content": "<|end|>"},
    "eos_token": "<|end|>",
    "chat_template": [{"name": "default", "template": "T"}],
    "tokenizer_class": "GPT2Tokenizer",
}
TEMPLATE: dict[str, Any] = {
    "type": "Sequence",
    "processors": [
        {"type": "ByteLevel"},
        {"type": "RobertaProcessing", "cls": ["<s>", 0], "sep": ["</s>", 1]},
        {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>"}}, {"Sequence": {"id": "A"}}, {"SpecialToken": {"id": "</s>"}}],
            "pair": [{"Sequence": {"id": "A"}}, {"SpecialToken": {"id": "</s>"}}, {"Sequence": {"id": "B"}}],
        },
    ],
}
CONFIG: dict[str, Any] = {"vocab_size": 300, "bos_token_id": 0, "eos_token_id": [1, 2], "pad_token_id": None}
SAMPLES = [{**sample, "post_processor": TEMPLATE} for sample in (BYTE_LEVEL, MERGING, WORDPIECE, UNIGRAM)]

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=4,
)


def places(content: Any) -> list[tuple[Any, ...]]:
    """List the paths to all entries of a JSON value."""
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    return [path for key, value in items for path in ((key,), *((key, *rest) for rest in places(value)))]


def put(content: Any, path: tuple[Any, ...], value: Any) -> Any:
    changed = copy.deepcopy(content)
    place = changed
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return changed


@pytest.mark.parametrize("sample", range(len(SAMPLES)))
@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_one_odd_entry(sample: int, data: st.DataObject):
    contents = {"tokenizer.json": SAMPLES[sample], "tokenizer_config.json": TOKENIZER_CONFIG, "config.json": CONFIG}
    name = data.draw(st.sampled_from(sorted(contents)))
    contents[name] = put(contents[name], data.draw(st.sampled_from(places(contents[name]))), data.draw(values))
    with tempfile.TemporaryDirectory() as folder:
        for file, content in contents.items():
            # Through ASCII, so that a half of a surrogate pair gets into the file as JSON allows it.
            (Path(folder) / file).write_text(json.dumps(content), encoding="ascii")
        for style in VocabularyStyle:
            with contextlib.suppress(CheckpointError):
                metadata = tokenizer_metadata(Path(folder), contents["config.json"], style=style)
                assert metadata["tokenizer.ggml.tokens"]
                json.dumps(metadata, ensure_ascii=False, default=list).encode("utf-8")
