"""Finding a pre-tokenizer by what it does: right names for strange spellings, refusals, the cache."""

import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from vocabulary_folders import write_byte_level, write_json

from ggufkit.checkpoints.vocabulary import read_vocabulary
from ggufkit.checkpoints.vocabulary.pretokenizers import GPT2, GPT4O, LLAMA3, QWEN2, TABLE, TEKKEN, known_row
from ggufkit.conversion import TokenizerOptions, pretokenizer_search
from ggufkit.conversion.vocabulary import vocabulary_metadata
from ggufkit.errors import CheckpointError, MissingDependencyError, UsageError
from ggufkit.llamacpp.find import find_source
from ggufkit.llamacpp.pretokenizers import OVER_WHOLE_TEXTS, PRETOKENIZERS

BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GGUFKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "pretokenizers"


def split(regex: str) -> dict[str, Any]:
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}


def sequence(*stages: dict[str, Any]) -> dict[str, Any]:
    return {"type": "Sequence", "pretokenizers": [*stages, BYTES]}


def found(folder: Path, pre_tokenizer: dict[str, Any], **options: Any) -> tuple[str, tuple[str, ...]]:
    config = write_byte_level(folder, pre_tokenizer, size=1200, **options)
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    assert known_row(tokenizer, set()) is None, "the table would answer, and nothing be searched"
    metadata, remarks = vocabulary_metadata(folder, config)
    return str(metadata["tokenizer.ggml.pre"]), remarks


@pytest.mark.engine
class TestSearch:
    @pytest.mark.parametrize(
        ("pre_tokenizer", "options", "name"),
        [
            # One regex, spelled otherwise than in the table.
            (sequence(split(QWEN2.replace("(?i:'s|'t|'re|'ve|'m|'ll|'d)", "'(?i:s|t|re|ve|m|ll|d)"))), {}, "qwen2"),
            (sequence(split(LLAMA3.replace("{1,3}", "{1,2}\\p{N}?"))), {"ignore_merges": True}, "llama-bpe"),
            (sequence(split(LLAMA3.replace("{1,3}", "{1,2}\\p{N}?"))), {}, "dbrx"),
            (sequence(split(GPT2.replace("'s|'t|'re|'ve|'m|'ll|'d", "'(?:[stmd]|re|ve|ll)"))), {}, "gpt-2"),
            # A first step that changes nothing.
            (sequence(split("\\u0000+"), split(f"(?:{QWEN2})")), {}, "qwen2"),
            # One that the table does not know at all.
            (sequence(split(QWEN2.partition("|'ll|'d)|")[2])), {}, "ufakzeka"),
            (sequence(split(r"[^\n]+|[\n]+"), split(QWEN2)), {}, "laguna"),
        ],
    )
    def test_names(self, tmp_path: Path, pre_tokenizer: dict[str, Any], options: dict[str, Any], name: str):
        assert found(tmp_path, pre_tokenizer, **options) == (name, ())

    @pytest.mark.parametrize(("regex", "name"), [(TEKKEN, "tekken"), (GPT4O, "gpt-4o")])
    def test_one_that_llama_cpp_follows_with_known_differences(self, tmp_path: Path, regex: str, name: str):
        spelled = regex.replace(r"\s+(?!\S)|\s+", r"\s+(?!\S)|\s+|\s")
        pre, remarks = found(tmp_path, sequence(split(spelled)), ignore_merges=True)
        assert pre == name
        assert "combining marks" in remarks[0]

    @pytest.mark.parametrize(
        ("regex", "nearest"),
        [
            (LLAMA3.replace("{1,3}", "{1,4}"), "llama-bpe"),
            (QWEN2.replace(r"\p{N}|", r"\p{N}{1,2}|"), None),
            (QWEN2.replace("|'d)", "|'d|'n)"), "qwen2"),
            (r"\p{L}+|\P{L}", None),
        ],
    )
    def test_an_unknown_regex_is_refused_with_the_nearest(self, tmp_path: Path, regex: str, nearest: str | None):
        with pytest.raises(CheckpointError, match="no pre-tokenizer that cuts text like this one") as caught:
            found(tmp_path, sequence(split(regex)), ignore_merges="1,4" in regex)
        assert re.search(r"the nearest is [\w-]+, which cuts \d+ texts otherwise, first at ['\"]", str(caught.value))
        assert caught.value.hint is not None
        assert "--pre " in caught.value.hint
        if nearest:
            assert f"the nearest is {nearest}," in str(caught.value)

    def test_ignore_merges_counts_where_it_makes_a_difference(self, tmp_path: Path):
        pre_tokenizer = sequence(split(f"(?:{QWEN2})"))
        name, _ = found(tmp_path, pre_tokenizer, ignore_merges=True)
        assert name == "qwen2"
        content = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
        content["model"]["vocab"]["Ġunmergeable"] = len(content["model"]["vocab"])
        content["added_tokens"] = []
        write_json(tmp_path / "tokenizer.json", content)
        with pytest.raises(CheckpointError, match="`ignore_merges` is true, which matters to 1 token such"):
            vocabulary_metadata(tmp_path, {})

    def test_what_was_found_is_kept(self, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch):
        folder = tmp_path / "model"
        found(folder, sequence(split(f"(?:{QWEN2})")))
        assert len(list(cache.iterdir())) == 1
        monkeypatch.setattr(pretokenizer_search, "_search", lambda *_: pytest.fail("searched again"))
        assert vocabulary_metadata(folder, {})[0]["tokenizer.ggml.pre"] == "qwen2"
        next(cache.iterdir()).write_text("{", encoding="utf-8")
        with pytest.raises(pytest.fail.Exception):
            vocabulary_metadata(folder, {})


def test_without_the_tokenizers_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    config = write_byte_level(tmp_path, sequence(split(f"(?:{QWEN2})")), size=600)
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    pretokenizer_search.crossing_model.cache_clear()
    with pytest.raises(MissingDependencyError, match="the tokenizers library is needed") as caught:
        vocabulary_metadata(tmp_path, config)
    assert caught.value.hint is not None
    assert "pip install tokenizers" in caught.value.hint
    name = {"pretokenizer": "qwen2"}
    assert vocabulary_metadata(tmp_path, config, options=TokenizerOptions(**name))[0]["tokenizer.ggml.pre"] == "qwen2"


def test_a_known_structure_is_not_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(pretokenizer_search, "_search", lambda *_: pytest.fail("searched"))
    row = next(row for row in TABLE if row.name == "qwen2")
    config = write_byte_level(tmp_path, row.pre_tokenizer(), size=600)
    assert vocabulary_metadata(tmp_path, config)[0]["tokenizer.ggml.pre"] == "qwen2"


def test_a_name_that_llama_cpp_does_not_have(tmp_path: Path):
    with pytest.raises(UsageError, match="no pre-tokenizer 'qwen-2'") as caught:
        vocabulary_metadata(tmp_path, {}, options=TokenizerOptions(pretokenizer="qwen-2"))
    assert caught.value.hint is not None
    assert "qwen2" in caught.value.hint


@pytest.mark.engine
def test_the_table_is_that_of_the_source():
    """Names and flags as in llama_vocab::impl::load, regular expressions as in llm_tokenizer_bpe."""
    source = (find_source() / "src" / "llama-vocab.cpp").read_text(encoding="utf-8")
    start = source.index("// for now, only BPE models have pre-tokenizers")
    branches = re.findall(
        r"if \(((?:[^{}]*?tokenizer_pre == \"[^\"]+\"[^{}]*?))\)\s*\{(.*?)\n            \}",
        source[start : source.index("unknown pre-tokenizer type", start)],
        re.DOTALL,
    )
    theirs = {}
    for condition, body in branches:
        kind = re.search(r"pre_type = LLAMA_VOCAB_PRE_TYPE_(\w+)", body)
        assert kind
        flags = ("ignore_merges = true" in body, "clean_spaces = false" not in body, "add_bos = true" in body)
        theirs |= dict.fromkeys(re.findall(r'"([^"]+)"', condition), (kind[1], flags))
    assert len(theirs) > 80
    ours = {name: entry for entry in PRETOKENIZERS for name in entry.names}
    assert theirs.keys() == ours.keys() | set(OVER_WHOLE_TEXTS)
    for name, entry in ours.items():
        assert theirs[name][1] == (entry.ignore_merges, entry.cleans_spaces, entry.adds_bos), name

    switch = source[
        source.index("switch (vocab.get_pre_type())") : source.index("std::vector<std::string> regex_exprs;")
    ]
    expressions: dict[str, str] = {}
    kinds: list[str] = []
    for part in re.finditer(
        r"case LLAMA_VOCAB_PRE_TYPE_(\w+):|regex_exprs = \{(.*?)\n +\};|break;|default:", switch, re.DOTALL
    ):
        if part[1]:
            kinds.append(part[1])
        elif part[0] == "default:":
            kinds.append("DEFAULT")
        elif part[2] is None:
            kinds = []
        else:
            lines = [line.strip() for line in part[2].splitlines() if not line.strip().startswith("//")]
            expressions |= dict.fromkeys(kinds, "".join(lines))
    same = {name: expressions[theirs[name][0]] for name in ours}
    for name, entry in ours.items():
        assert [other for other in ours if same[other] == same[name]] == [
            other for other in ours if ours[other].cut == entry.cut
        ], name


@pytest.mark.engine
@pytest.mark.slow
@pytest.mark.parametrize("row", [row for row in TABLE if not row.marker], ids=lambda row: f"{row.name} ({row.model})")
def test_the_search_finds_what_the_table_says(row: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Without the table, every structure of it leads to a name that cuts alike."""
    monkeypatch.setattr(pretokenizer_search, "known_row", lambda *_: None)
    config = write_byte_level(tmp_path, row.pre_tokenizer(), ignore_merges=row.ignore_merges[-1], size=1200)
    name = read_vocabulary(tmp_path, config, find_pretokenizer=pretokenizer_search.find_pretokenizer).metadata[
        "tokenizer.ggml.pre"
    ]
    assert {entry.cut for entry in PRETOKENIZERS if {name, row.name} & set(entry.names)} <= {
        *(entry.cut for entry in PRETOKENIZERS if row.name in entry.names),
        *(["qwen2"] if row.name == "bailingmoe" else []),  # these cut the whole corpus alike
    }
