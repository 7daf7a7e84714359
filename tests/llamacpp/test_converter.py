"""The fallback converter: what it is told, what it says, and what it must not be given."""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ggufkit.errors import LlamaCppError, MissingDependencyError, UnsafeError, UnsupportedArchitectureError
from ggufkit.llamacpp import converter
from ggufkit.llamacpp.converter import ConverterOptions, argv, code_in, convert, parse_failure, parse_progress
from ggufkit.llamacpp.find import find_source

CONFIG = {"architectures": ["LlamaForCausalLM"], "vocab_size": 8}

TRACEBACK = """\
INFO:hf-to-gguf:Loading model: x
Traceback (most recent call last):
  File "convert_hf_to_gguf.py", line 310, in <module>
    main()
ValueError: Can not map tensor 'model.odd.weight'
"""


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    return folder


@pytest.fixture
def fake_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A source tree whose converter is the text that a test writes into `convert_hf_to_gguf.py`."""
    source = tmp_path / "source"
    (source / "conversion").mkdir(parents=True)
    (source / "conversion" / "__init__.py").write_text(
        'raise SystemExit("must not be imported")\nTEXT_MODEL_MAP: dict[str, str] = {"LlamaForCausalLM": "llama"}\n',
        encoding="utf-8",
    )
    monkeypatch.setattr(converter, "find_source", lambda: source)
    converter.known_architectures.cache_clear()
    yield source
    converter.known_architectures.cache_clear()


def write_converter(source: Path, code: str) -> None:
    (source / "convert_hf_to_gguf.py").write_text("import os, sys, json, time\n" + code, encoding="utf-8")


def test_argv():
    options = ConverterOptions(Path("in put"), Path("out/.x{y}.gguf"), "bf16", "A name")
    assert argv(options, Path("tree")) == [
        sys.executable,
        "tree/convert_hf_to_gguf.py",
        "in put",
        "--outtype",
        "bf16",
        "--outfile",
        "out/.x{{y}}.gguf",
        "--model-name",
        "A name",
    ]
    assert "--model-name" not in argv(ConverterOptions(Path("a"), Path("b")), Path("tree"))
    assert argv(ConverterOptions(Path("a"), Path("b"), mtp=False), Path("tree"))[-1] == "--no-mtp"


@pytest.mark.parametrize(
    ("line", "percent"),
    [
        ("Writing:  37%|###7      | 1.2G/3.2G [00:03<00:05, 380Mbyte/s]", 37),
        ("Writing: 100%|##########| 3.2G/3.2G", 100),
        ("INFO:hf-to-gguf:Writing: 5", None),
        ("Writing: ?", None),
    ],
)
def test_parse_progress(line: str, percent: int | None):
    assert parse_progress(line) == percent


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (TRACEBACK.splitlines(), "ValueError: Can not map tensor 'model.odd.weight'"),
        (["ERROR:hf-to-gguf:Error: x is not a directory"], "Error: x is not a directory"),
        (["Writing:  3%|", "huggingface_hub.errors.OfflineModeIsEnabled: no", "tail"], "tail"),
        (["pickle.UnpicklingError: bad"], "pickle.UnpicklingError: bad"),
        ([], "it printed nothing"),
    ],
)
def test_parse_failure(lines: list[str], said: str):
    assert parse_failure(lines) == said


class TestCode:
    def test_none(self, checkpoint: Path):
        assert code_in(checkpoint) == []

    @pytest.mark.parametrize(
        ("name", "content", "found"),
        [
            ("modeling_x.py", "raise SystemExit", "modeling_x.py"),
            ("sub/tokenizer.py", "", "sub/tokenizer.py"),
            ("config.json", json.dumps({**CONFIG, "auto_map": {"AutoConfig": "x.Y"}}), "auto_map in config.json"),
            ("config.json", json.dumps({"text_config": {"auto_map": {"a": "b"}}}), "auto_map in config.json"),
            (
                "tokenizer_config.json",
                '{"auto_map": {"AutoTokenizer": ["x.Y", null]}}',
                "auto_map in tokenizer_config.json",
            ),
        ],
    )
    def test_refused_before_anything_runs(
        self, checkpoint: Path, fake_source: Path, tmp_path: Path, name: str, content: str, found: str
    ):
        write_converter(fake_source, "open(sys.argv[5], 'w').write('ran')")
        (checkpoint / name).parent.mkdir(exist_ok=True)
        (checkpoint / name).write_text(content, encoding="utf-8")
        with pytest.raises(UnsafeError, match=found) as caught:
            convert(checkpoint, tmp_path / "out.gguf")
        assert caught.value.exit_code == 4
        assert "--trust-remote-code" in str(caught.value.hint)
        assert not (tmp_path / "out.gguf").exists()
        convert(checkpoint, tmp_path / "out.gguf", trust_remote_code=True)
        assert (tmp_path / "out.gguf").exists()


class TestConvert:
    def test_child_works_offline_and_reports_progress(self, checkpoint: Path, fake_source: Path, tmp_path: Path):
        write_converter(
            fake_source,
            "for p in (0, 50, 100): print(f'Writing: {p:3d}%|##', end='\\r', file=sys.stderr, flush=True)\n"
            "names = ('HF_HUB_OFFLINE', 'TRANSFORMERS_OFFLINE', 'PYTHONDONTWRITEBYTECODE')\n"
            "json.dump({'argv': sys.argv[1:], 'set': [os.environ.get(n) for n in names]}, open(sys.argv[5], 'w'))",
        )
        calls: list[tuple[Any, ...]] = []
        output = tmp_path / "out.gguf"
        convert(checkpoint, output, outtype="q8_0", progress=lambda *call: calls.append(call))
        said = json.loads(output.read_text(encoding="utf-8"))
        assert said["argv"] == [str(checkpoint), "--outtype", "q8_0", "--outfile", str(output)]
        assert said["set"] == ["1", "1", "1"]
        assert calls == [
            ("Converting", done, total, "steps")
            for done, total in ((0, 0), (0, 100), (50, 100), (100, 100), (100, 100))
        ]

    def test_failure_is_one_line(self, checkpoint: Path, fake_source: Path, tmp_path: Path):
        write_converter(fake_source, "raise ValueError(\"Can not map tensor 'odd'\")")
        with pytest.raises(LlamaCppError) as caught:
            convert(checkpoint, tmp_path / "out.gguf")
        assert (
            str(caught.value) == f"llama.cpp's converter failed on {checkpoint}: ValueError: Can not map tensor 'odd'"
        )
        assert caught.value.exit_code == 6

    def test_death_names_the_signal(self, checkpoint: Path, fake_source: Path, tmp_path: Path):
        write_converter(fake_source, "os.kill(os.getpid(), 9)")
        with pytest.raises(LlamaCppError, match="SIGKILL"):
            convert(checkpoint, tmp_path / "out.gguf")

    def test_success_without_a_file(self, checkpoint: Path, fake_source: Path, tmp_path: Path):
        write_converter(fake_source, "print('nothing to do')")
        with pytest.raises(LlamaCppError, match=r"wrote no file.*nothing to do"):
            convert(checkpoint, tmp_path / "out.gguf")

    def test_unknown_architecture_names_its_neighbours(self, checkpoint: Path, fake_source: Path, tmp_path: Path):
        write_converter(
            fake_source,
            "print('ERROR:hf-to-gguf:Model LlamaForCausalML is not supported', file=sys.stderr); sys.exit(1)",
        )
        with pytest.raises(UnsupportedArchitectureError, match="'LlamaForCausalML'") as caught:
            convert(checkpoint, tmp_path / "out.gguf")
        assert caught.value.hint == "it knows LlamaForCausalLM"

    @pytest.mark.parametrize("absent", [("torch",), ("torch", "transformers")])
    def test_missing_packages(
        self,
        checkpoint: Path,
        fake_source: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        absent: tuple[str, ...],
    ):
        write_converter(fake_source, "")
        monkeypatch.setattr(converter.importlib.util, "find_spec", lambda name: None if name in absent else object())
        with pytest.raises(MissingDependencyError, match=" and ".join(absent)) as caught:
            convert(checkpoint, tmp_path / "out.gguf")
        assert caught.value.hint is not None
        assert "[hf]" in caught.value.hint

    def test_cancelling_kills_the_child(self, checkpoint: Path, fake_source: Path, tmp_path: Path):
        output = tmp_path / "out.gguf"

        def interrupt(*_: object) -> None:
            if output.with_name("out.gguf.pid").exists():
                raise KeyboardInterrupt

        write_converter(
            fake_source,
            "open(sys.argv[5] + '.pid', 'w').write(str(os.getpid()))\n"
            "print('Writing:   1%|', file=sys.stderr, flush=True)\ntime.sleep(60)",
        )
        with pytest.raises(KeyboardInterrupt):
            convert(checkpoint, output, progress=interrupt)
        child = int(output.with_name("out.gguf.pid").read_text(encoding="utf-8"))
        with pytest.raises(ProcessLookupError):
            os.kill(child, 0)


class TestKnownArchitectures:
    @pytest.mark.usefixtures("fake_source")
    def test_read_without_importing(self):
        assert converter.known_architectures() == {"LlamaForCausalLM"}

    def test_another_layout(self, fake_source: Path):
        (fake_source / "conversion" / "__init__.py").write_text("A = 1", encoding="utf-8")
        with pytest.raises(LlamaCppError, match="no TEXT_MODEL_MAP"):
            converter.known_architectures()

    @pytest.mark.engine
    def test_of_the_pinned_release(self):
        known = converter.known_architectures()
        assert len(known) > 200
        assert {"LlamaForCausalLM", "Qwen2ForCausalLM", "DeepseekV3ForCausalLM"} <= known
        assert "Qwen2ForCausalLM" in converter.nearest_architectures("Qwen2ForCasualLM")


@pytest.mark.oracle
@pytest.mark.engine
@pytest.mark.slow
def test_the_real_converter_on_a_gpt_2(tmp_path: Path):
    """An architecture that has no spec of ours, with GPT-2's own vocabulary out of llama.cpp's tree."""
    import gguf
    import torch
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel

    fields = gguf.GGUFReader(find_source() / "models" / "ggml-vocab-gpt-2.gguf").fields
    vocabulary = {text: index for index, text in enumerate(fields["tokenizer.ggml.tokens"].contents())}
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"].contents()]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("<|endoftext|>", normalized=False)])
    folder = tmp_path / "gpt2"
    shape = GPT2Config(vocab_size=len(vocabulary), n_positions=16, n_embd=32, n_layer=1, n_head=2, n_ctx=16)
    GPT2LMHeadModel(shape).to(torch.float16).save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "n_ctx": 16}), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}', encoding="utf-8")
    tokenizer.save(str(folder / "tokenizer.json"))

    output = tmp_path / "a {strange} name.gguf"
    calls: list[tuple[Any, ...]] = []
    convert(folder, output, progress=lambda *call: calls.append(call))
    reader = gguf.GGUFReader(output)
    assert reader.fields["general.architecture"].contents() == "gpt2"
    assert reader.fields["tokenizer.ggml.pre"].contents() == "gpt-2"
    assert {tensor.name for tensor in reader.tensors} >= {"token_embd.weight", "blk.0.attn_qkv.weight"}
    assert calls[-1] == ("Converting", 100, 100, "steps")
