"""The metadata must equal what llama.cpp's own converter writes for the same folder, types included."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import pytest
from vocabulary_folders import (
    train_sentencepiece,
    write_byte_level,
    write_config,
    write_gguf,
    write_json,
)

from ggufkit.checkpoints.vocabulary import tokenizer_metadata
from ggufkit.checkpoints.vocabulary.model_proto import read_settings
from ggufkit.checkpoints.vocabulary.pretokenizers import TABLE
from ggufkit.llamacpp.find import find_source

pytestmark = [pytest.mark.oracle, pytest.mark.slow]

ORACLE = Path(__file__).parents[2] / "oracles" / "llama_cpp_convert.py"
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
PREFIX = "tokenizer."


@dataclass(frozen=True)
class Case:
    """A folder, the style that its family has, and the keys that differ on purpose, each with the reason."""

    build: Callable[[Path], object]
    style: str
    pre: str = "default"
    differs: Mapping[str, str] = field(default_factory=dict)


def byte_level(name: str, architecture: str, **options: Any) -> Callable[[Path], object]:
    row = next(row for row in TABLE if row.name == name)
    options = {"ignore_merges": row.ignore_merges[-1], "size": 700, "architecture": architecture, **options}
    return lambda folder: write_byte_level(folder, row.pre_tokenizer(), **options)


def qwen2(folder: Path) -> None:
    settings = {"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    tokenizer_config = {**settings, "bos_token": None, "chat_template": TEMPLATE, "add_prefix_space": False}
    options = {"normalizer": {"type": "NFC"}, "user_defined": ("<tool_call>", "<think>"), "eos_token_id": 3}
    byte_level("qwen2", "Qwen2ForCausalLM", tokenizer_config=tokenizer_config, **options)(folder)
    generation = {"temperature": 0.7, "top_k": 20, "top_p": 0.8, "repetition_penalty": 1, "do_sample": True}
    write_json(folder / "generation_config.json", generation)


def llama_3(folder: Path) -> None:
    begin = {"SpecialToken": {"id": "<|begin_of_text|>", "type_id": 0}}
    text = {"Sequence": {"id": "A", "type_id": 0}}
    template = {
        "type": "TemplateProcessing",
        "single": [begin, text],
        "pair": [
            begin,
            text,
            {"SpecialToken": {"id": "<|begin_of_text|>", "type_id": 1}},
            {"Sequence": {"id": "B", "type_id": 1}},
        ],
        "special_tokens": {
            "<|begin_of_text|>": {"id": "<|begin_of_text|>", "ids": [0], "tokens": ["<|begin_of_text|>"]}
        },
    }
    processors = [{"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True}, template]
    named = [
        {"name": "default", "template": TEMPLATE},
        {"name": "tool use", "template": "T"},
        {"name": "rag", "template": "R"},
    ]
    settings = {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>", "chat_template": named}
    byte_level(
        "llama-bpe",
        "LlamaForCausalLM",
        special=("<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"),
        post_processor={"type": "Sequence", "processors": processors},
        tokenizer_config=settings,
        eos_token_id=[700, 701],
        bos_token_id=0,
    )(folder)


def ends_with_another_token(folder: Path) -> None:
    """A post-processor that adds `</s>` where tokenizer_config.json names `<|im_end|>` as eos."""
    single = [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    single.append({"SpecialToken": {"id": "</s>", "type_id": 0}})
    tokens = {text: {"id": text, "ids": [0], "tokens": [text]} for text in ("<s>", "</s>")}
    template = {"type": "TemplateProcessing", "single": single, "pair": single[:2], "special_tokens": tokens}
    settings = {
        "bos_token": "<s>",
        "eos_token": {"content": "<|im_end|>", "__type": "AddedToken"},
        "add_eos_token": False,
    }
    special = ("<s>", "</s>", "<|im_end|>", "<mask>")
    options = {"post_processor": template, "tokenizer_config": settings, "special": special, "mask_token_id": 9}
    byte_level("gpt-2", "LlamaForCausalLM", **options)(folder)


def deepseek_v3(folder: Path) -> None:
    begin, end = "<\uff5cbegin▁of▁sentence\uff5c>", "<\uff5cend▁of▁sentence\uff5c>"
    token = {"__type": "AddedToken", "lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
    settings = {
        "add_bos_token": True,
        "add_eos_token": False,
        "bos_token": {**token, "content": begin},
        "eos_token": {**token, "content": end},
        "pad_token": {**token, "content": end},
        "unk_token": None,
        "chat_template": TEMPLATE,
    }
    options = {
        "special": (begin, end),
        "user_defined": ("<\uff5cUser\uff5c>", "<\uff5cfim▁hole\uff5c>", "<think>", "  "),
    }
    config = {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_nope_head_dim": 8, "qk_rope_head_dim": 8, "v_head_dim": 8}
    config |= {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
    config |= {
        "first_k_dense_replace": 1,
        "routed_scaling_factor": 1.0,
        "norm_topk_prob": True,
        "scoring_func": "sigmoid",
    }
    config |= {"n_group": 1, "topk_group": 1}
    byte_level("deepseek-v3", "DeepseekV3ForCausalLM", tokenizer_config=settings, **options, **config)(folder)


def jinja_files(folder: Path) -> None:
    byte_level("tekken", "MistralForCausalLM", tokenizer_config={"add_prefix_space": False})(folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text("T", encoding="utf-8")


def vocab_json(folder: Path) -> None:
    """What older checkpoints have in place of a tokenizer.json."""
    byte_level("gpt-2", "LlamaForCausalLM")(folder)
    model = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    (folder / "tokenizer.json").unlink()
    size = len(model["vocab"])
    write_json(folder / "vocab.json", {**model["vocab"], "<|endoftext|>": size})
    merges = [" ".join(pair) for pair in model["merges"]]
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", encoding="utf-8")
    settings = {"tokenizer_class": "GPT2Tokenizer", "bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}
    added = {"content": "<|im_start|>", "special": True, "normalized": False, "lstrip": False, "rstrip": False}
    write_json(folder / "tokenizer_config.json", {**settings, "added_tokens_decoder": {str(size + 1): added}})
    write_config(folder, size + 4, eos_token_id=size)


def sentencepiece(
    architecture: str, tokenizer_config: Mapping[str, Any] | None = None, *, rows: int = 1550, **options: Any
) -> Callable[[Path], object]:
    def build(folder: Path) -> None:
        train_sentencepiece(folder, **options)
        if tokenizer_config is not None:
            write_json(folder / "tokenizer_config.json", tokenizer_config)
        settings = {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0, "sliding_window": 64}
        write_config(folder, rows, architecture, bos_token_id=1, eos_token_id=2, **settings)

    return build


def llama_2(folder: Path) -> None:
    def token(text: str, *, special: bool) -> dict[str, Any]:
        return {"content": text, "special": special, "normalized": False, "lstrip": False, "rstrip": False}

    decoder = {
        "0": token("<unk>", special=True),
        "1": token("<s>", special=True),
        "1500": token("[INST]", special=False),
        "1501": token("<|im_end|>", special=False),
        "1502": token("▁▁two words", special=False),
        "1600": token("beyond", special=True),
        "700": token("renamed", special=False),
    }
    settings = {"add_bos_token": True, "add_eos_token": False, "add_prefix_space": True, "bos_token": "<s>"}
    sentencepiece("LlamaForCausalLM", {**settings, "added_tokens_decoder": decoder, "chat_template": TEMPLATE})(folder)
    write_json(folder / "added_tokens.json", {"<extra>": 1510, "<pad>": 1511, "[INST]": 1500})


def resaved(folder: Path) -> None:
    """The same vocabulary after transformers 5 saved it: tokenizer.json alone."""
    from transformers import LlamaTokenizer

    source = folder.parent / f"{folder.name}-source"
    sentencepiece("LlamaForCausalLM", {"add_bos_token": True, "bos_token": "<s>", "eos_token": "</s>"})(source)
    tokenizer = LlamaTokenizer.from_pretrained(source)
    tokenizer.add_tokens(["[INST]", "<|tool|>"])
    tokenizer.save_pretrained(folder)
    write_config(folder, len(tokenizer), bos_token_id=1, eos_token_id=2)


def bert(folder: Path) -> None:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    names = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
    trainer = trainers.WordPieceTrainer(vocab_size=900, special_tokens=list(names.values()), show_progress=False)
    tokenizer.train_from_iterator(["some words to learn from, and others"], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.decoder = decoders.WordPiece()
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {f"{role}_token": name for role, name in names.items()}
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "BertTokenizer", **settings})
    size = tokenizer.get_vocab_size() + 3
    write_config(folder, size, "BertModel", type_vocab_size=2, pad_token_id=0, layer_norm_eps=1e-12)


def roberta(architecture: str, **config: Any) -> Callable[[Path], object]:
    tokens = {
        "bos": "<s>",
        "pad": "<pad>",
        "eos": "</s>",
        "unk": "<unk>",
        "mask": "<mask>",
        "cls": "<s>",
        "sep": "</s>",
    }
    processing = {"type": "RobertaProcessing", "cls": ["<s>", 0], "sep": ["</s>", 2], "trim_offsets": True}
    options = {
        "special": tuple(dict.fromkeys(tokens.values())),
        "post_processor": {**processing, "add_prefix_space": False},
        "tokenizer_config": {f"{role}_token": text for role, text in tokens.items()},
    }
    return byte_level("gpt-2", architecture, **options, **config)


def xlm_roberta(folder: Path) -> None:
    from transformers import XLMRobertaTokenizer

    charsmap, vocabulary = unigram_pieces(folder.parent / f"{folder.name}-source")
    first = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    vocabulary = [*first, *vocabulary[3:], ("<mask>", 0.0)]
    tokenizer = XLMRobertaTokenizer(vocab=vocabulary, _spm_precompiled_charsmap=charsmap)
    tokenizer.save_pretrained(folder)
    write_config(folder, len(vocabulary) + 3, "XLMRobertaModel", type_vocab_size=1, pad_token_id=1)


def unigram_pieces(folder: Path) -> tuple[bytes, list[tuple[str, float]]]:
    from sentencepiece import SentencePieceProcessor

    path = train_sentencepiece(
        folder, kind="unigram", byte_fallback=False, normalization_rule_name="nmt_nfkc", remove_extra_whitespaces=True
    )
    processor = SentencePieceProcessor(model_file=str(path))
    pieces = [(processor.id_to_piece(i), processor.get_score(i)) for i in range(processor.vocab_size())]
    return read_settings(path.read_bytes()).precompiled_charsmap, pieces


def fairseq(folder: Path) -> None:
    """As XLM-Roberta was released: sentencepiece.bpe.model."""
    _, pieces = unigram_pieces(folder)
    (folder / "tokenizer.model").rename(folder / "sentencepiece.bpe.model")
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": "XLMRobertaTokenizer"})
    write_config(folder, len(pieces) + 2, "XLMRobertaModel", type_vocab_size=1, bos_token_id=0, eos_token_id=2)


def t5(folder: Path) -> None:
    _, pieces = unigram_pieces(folder)
    (folder / "tokenizer.model").rename(folder / "spiece.model")
    write_json(folder / "tokenizer_config.json", {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"})
    config = {"d_model": 64, "d_ff": 128, "d_kv": 16, "num_heads": 4, "num_layers": 2, "n_positions": 512}
    config |= {"layer_norm_epsilon": 1e-6, "relative_attention_num_buckets": 32, "decoder_start_token_id": 0}
    write_config(folder, len(pieces) + 28, "T5ForConditionalGeneration", eos_token_id=2, unk_token_id=0, **config)


def glm(folder: Path) -> None:
    special = ("<|endoftext|>", "[gMASK]", "<sop>", "<|user|>", "<|assistant|>", "<|observation|>")
    settings = {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    byte_level("dbrx", "GlmForCausalLM", special=special, tokenizer_config=settings, eos_token_id=[1, 2])(folder)


NO_PREFIX = {
    "tokenizer.ggml.add_space_prefix": "upstream never reads it from tokenizer.model; its ids differ from HF's"
}
MERGE_SCORES = {"tokenizer.ggml.scores": "upstream gives all -1000, and so other ids than HF: test_token_ids.py"}
NAMES = {"tokenizer.ggml.pre": "names that llama.cpp treats alike are not told apart"}
LOOKS_SPECIAL = {
    "tokenizer.ggml.token_type": "upstream judges by looks everywhere but in this path; <|tool|> is CONTROL"
}

OUTPUT_FLAG = {
    "tokenizer.ggml.remove_extra_whitespaces": "upstream copies clean_up_tokenization_spaces, which is about output"
}
MASK = dict.fromkeys(("tokens", "scores", "token_type"), "upstream leaves the row of <mask> unused")
OWN_ROLES = {
    f"tokenizer.ggml.{role}_token_id": "as in the model; upstream leaves it to llama.cpp, which takes another"
    for role in ("unknown", "padding")
}

NO_END = {"tokenizer.ggml.eos_token_id": "no file names it; upstream leaves it to llama.cpp, which takes token 11"}
STOPS = "config.json stops at one more token than upstream's file, which names one only"

CASES = {
    "bert": Case(bert, "bert"),
    "roberta": Case(roberta("RobertaModel", type_vocab_size=1, pad_token_id=1), "bert", "roberta-bpe", differs=NAMES),
    "modern-bert": Case(roberta("ModernBertModel", local_attention=128), "modern-bert", "modern-bert", differs=NAMES),
    "xlm-roberta": Case(xlm_roberta, "bert", differs=OUTPUT_FLAG),
    "fairseq": Case(fairseq, "bert", differs={f"tokenizer.ggml.{key}": why for key, why in MASK.items()} | OWN_ROLES),
    "t5": Case(t5, "t5"),
    "glm": Case(glm, "chatglm", "chatglm-bpe", differs={"tokenizer.ggml.eom_token_id": STOPS}),
    "qwen2": Case(qwen2, "auto", "qwen2", differs={"tokenizer.ggml.eot_token_id": STOPS}),
    "qwen3": Case(byte_level("qwen2", "Qwen3ForCausalLM"), "auto", "qwen2", differs=NO_END),
    "llama-3": Case(llama_3, "llama", "llama-bpe", differs={"tokenizer.ggml.eot_token_id": STOPS}),
    "llama-eot": Case(ends_with_another_token, "llama", "gpt-2"),
    "deepseek-v3": Case(deepseek_v3, "byte-level", "deepseek-v3"),
    "mistral-nemo": Case(jinja_files, "llama", "tekken", differs=NO_END),
    "granite": Case(
        byte_level("smollm", "LlamaForCausalLM", spare_rows=49152 - 703), "llama", "smollm", differs=NO_END
    ),
    "gpt-2-files": Case(vocab_json, "llama", "gpt-2"),
    "llama-2": Case(llama_2, "llama"),
    "llama-2-bare": Case(sentencepiece("LlamaForCausalLM"), "llama"),
    "llama-2-no-prefix": Case(sentencepiece("LlamaForCausalLM", add_dummy_prefix=False), "llama", differs=NO_PREFIX),
    "mixtral": Case(sentencepiece("MixtralForCausalLM", {"add_bos_token": True}), "llama"),
    "code-llama": Case(sentencepiece("LlamaForCausalLM", {"add_bos_token": True}, rows=32016), "llama"),
    "gemma-2": Case(sentencepiece("Gemma2ForCausalLM", {"add_bos_token": True}, add_dummy_prefix=False), "gemma"),
    "smaller-than-the-model": Case(sentencepiece("LlamaForCausalLM", rows=1000), "llama"),
    "resaved": Case(resaved, "llama", differs=MERGE_SCORES | LOOKS_SPECIAL),
}


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Build all folders, and convert them with llama.cpp's converter in one child process."""
    root = tmp_path_factory.mktemp("vocabularies")
    jobs = []
    for name, case in CASES.items():
        case.build(root / name)
        arguments = ["--vocab-only", "--raw-config", "--pre", case.pre, "--source", str(find_source())]
        jobs.append([str(root / name), str(root / f"{name}.gguf"), *arguments])
    write_json(root / "jobs.json", jobs)
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, str(ORACLE), "--jobs", str(root / "jobs.json")]
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    return {name: root / name for name in CASES}


def read(path: Path) -> dict[str, tuple[list[str], Any]]:
    """Read the keys at issue: the names of their types, and their values."""
    found = {}
    for key, value in gguf.GGUFReader(path).fields.items():
        if key.startswith(PREFIX):
            content = value.contents()
            found[key] = (
                [kind.name for kind in value.types],
                sorted(content) if key.endswith("templates") else content,
            )
    return found


@pytest.mark.parametrize("name", CASES)
def test_metadata(name: str, upstream: dict[str, Path], tmp_path: Path):
    case, folder = CASES[name], upstream[name]
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    metadata = tokenizer_metadata(folder, config, style=case.style)
    ours = read(write_gguf(tmp_path / "ours.gguf", metadata))
    theirs = read(folder.parent / f"{name}.gguf")
    assert {key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key)} == set(case.differs)
    for key in case.differs:
        if key in theirs and isinstance(theirs[key][1], list):
            assert len(ours[key][1]) == len(theirs[key][1])
