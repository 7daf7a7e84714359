"""The generation loop on tiny models: no byte lost, prompts reused, limits kept, failures explained."""

import math
import os
import random
import re
import signal
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_model

from ggufkit.errors import GgufFileError, InputError, LlamaCppError, UsageError
from ggufkit.inference.engine import Engine
from ggufkit.inference.generation import FinishReason
from ggufkit.inference.options import (
    CacheType,
    EngineOptions,
    FlashAttention,
    LoadMode,
    SamplingOptions,
    TensorOverride,
)

pytestmark = pytest.mark.engine

GREEDY = SamplingOptions(temperature=0)
START = tiny_model.token("\u010a")  # the line end that ChatML's prompt ends with


def scripted(path: Path, tokens: list[int], *, endless: bool = False) -> Engine:
    tiny_model.write(path, successors=tiny_model.chain(START, tokens, endless=endless))
    return Engine.open(path, EngineOptions(threads=1))


# ---- tokens and bytes


def test_every_entry_of_the_vocabulary_gives_all_its_bytes(engine: Engine) -> None:
    tokens, types, _ = tiny_model.vocabulary()
    letters = {letter: byte for byte, letter in enumerate(tiny_model.byte_letters())}
    for token, (text, kind) in enumerate(zip(tokens, types, strict=True)):
        expected = bytes(letters[letter] for letter in text) if kind == 1 else text.encode()
        assert engine.token_bytes(token, special=True) == expected
        assert engine.token_bytes(token) == (b"" if kind == 3 else expected)


def test_a_token_of_48_spaces_does_not_vanish(engine: Engine) -> None:
    text = "x" + " " * 48
    tokens = engine.tokenize(text)
    assert len(tokens) == 2
    assert engine.text_of(tokens) == text


def test_any_text_survives(engine: Engine) -> None:
    source = random.Random(0)
    for _ in range(50):
        text = "".join(chr(source.choice([source.randrange(1, 0xD800), source.randrange(32, 127)])) for _ in range(30))
        assert engine.text_of(engine.tokenize(text)) == text


def test_half_a_surrogate_pair_becomes_visible(engine: Engine) -> None:
    assert set(engine.text_of(engine.tokenize("a\ud83db"))) == {"a", "\ufffd", "b"}


def test_special_tokens_are_parsed_only_when_asked(engine: Engine) -> None:
    assert engine.tokenize("<|im_end|>", parse_special=True) == [tiny_model.token("<|im_end|>")]
    assert tiny_model.token("<|im_end|>") not in engine.tokenize("<|im_end|>")


def test_a_token_outside_the_vocabulary_is_refused(engine: Engine) -> None:
    with pytest.raises(UsageError, match="outside the vocabulary"):
        engine.token_bytes(100_000)
    with pytest.raises(UsageError, match="outside the vocabulary"):
        engine.generate([-1])


# ---- generating


def test_a_character_split_over_tokens_streams_whole(tmp_path: Path) -> None:
    with scripted(tmp_path / "m.gguf", tiny_model.ids("Hi 🙂é!")) as engine:
        generation = engine.generate([START], GREEDY)
        assert [piece.text for piece in generation] == ["H", "i", " ", "", "", "", "🙂", "", "é", "!"]
        assert generation.result.text == "Hi 🙂é!"
        assert generation.result.finish_reason is FinishReason.STOP


def test_bytes_that_are_no_character_are_visible_and_none_vanish(tmp_path: Path) -> None:
    with scripted(tmp_path / "m.gguf", [ord("a"), 0xFF, ord("b"), 0xF0, 0x9F]) as engine:
        assert engine.generate([START], GREEDY).result.text == "a\ufffdb\ufffd"


def test_a_stop_string_across_tokens_ends_the_reply(tmp_path: Path) -> None:
    with scripted(tmp_path / "m.gguf", tiny_model.ids("one, END")) as engine:
        generation = engine.generate([START], GREEDY, stop=[", E"])
        assert "".join(piece.text for piece in generation) == "one"
        assert generation.result.stop_string == ", E"
        assert generation.result.finish_reason is FinishReason.STOP


def test_max_tokens_ends_the_reply(engine: Engine) -> None:
    result = engine.generate(engine.tokenize("hello"), SamplingOptions(seed=1), max_tokens=3).result
    assert (result.generated_tokens, result.finish_reason, result.context_full) == (3, FinishReason.LENGTH, False)


def test_the_reply_ends_when_the_context_is_full(tmp_path: Path) -> None:
    tiny_model.saying(tmp_path / "m.gguf", "abc", endless=True)
    with Engine.open(tmp_path / "m.gguf", EngineOptions(context_size=20, threads=1)) as engine:
        result = engine.generate([START] * 10, GREEDY).result
        assert (result.finish_reason, result.context_full) == (FinishReason.LENGTH, True)
        assert result.prompt_tokens + result.generated_tokens == 21  # the last one needs no place
        assert engine.generate([START] * 20, GREEDY, max_tokens=5).result.generated_tokens == 1
        with pytest.raises(InputError, match="21 tokens, but the context holds 20"):
            engine.generate([START] * 21, GREEDY)


def test_the_same_seed_draws_the_same_reply(engine: Engine) -> None:
    prompt = engine.tokenize("hello world")

    def draw(seed: int | None) -> str:
        options = SamplingOptions(seed=seed, temperature=2.0, top_p=1.0, min_p=0.0)
        return engine.generate(prompt, options, max_tokens=20).result.text

    assert draw(1) == draw(1)
    assert len({draw(None), draw(None), draw(None)}) > 1


def test_prompts_may_have_other_threads_than_replies(random_model: Path) -> None:
    replies = set()
    for threads, threads_batch in ((1, 2), (2, 1), (2, 2)):
        options = EngineOptions(threads=threads, threads_batch=threads_batch)
        with Engine.open(random_model, options) as engine:
            prompt = engine.tokenize("The same text over and over")
            replies.add(engine.generate(prompt, SamplingOptions(temperature=0), max_tokens=12).result.text)

    assert len(replies) == 1


def test_the_seed_that_was_drawn_repeats_the_reply(engine: Engine) -> None:
    prompt = engine.tokenize("hello world")
    first = engine.generate(prompt, SamplingOptions(temperature=2.0), max_tokens=20).result
    again = engine.generate(prompt, SamplingOptions(temperature=2.0, seed=first.seed), max_tokens=20).result
    assert again.text == first.text


def test_the_repeat_penalty_counts_the_prompt(tmp_path: Path) -> None:
    a, b = tiny_model.ids("ab")
    tiny_model.write(tmp_path / "m.gguf", successors={START: a}, second_best={START: b})
    with Engine.open(tmp_path / "m.gguf", EngineOptions(threads=1)) as engine:
        penalized = SamplingOptions(temperature=0, repeat_penalty=2.0)
        assert engine.generate([a, START], GREEDY, max_tokens=1).result.text == "a"
        assert engine.generate([a, START], penalized, max_tokens=1).result.text == "b"
        assert engine.generate([START], penalized, max_tokens=1).result.text == "a"


def test_pieces_that_nobody_took_are_still_generated(engine: Engine) -> None:
    generation = engine.generate(engine.tokenize("hello"), SamplingOptions(seed=4), max_tokens=6)
    first = next(generation).text
    assert generation.result.text.startswith(first)
    assert generation.result.generated_tokens == 6


def test_a_reply_cannot_go_on_after_another_has_begun(engine: Engine) -> None:
    first = engine.generate([1, 2, 3], SamplingOptions(seed=1), max_tokens=5)
    next(first)
    engine.generate([4, 5], SamplingOptions(seed=1), max_tokens=5).result  # noqa: B018 - runs it
    with pytest.raises(UsageError, match="begun another"):
        next(first)


# ---- reuse of the prompt


def test_a_prompt_that_continues_is_not_read_again(random_model: Path) -> None:
    with Engine.open(random_model, EngineOptions(threads=1)) as engine:
        prompt = engine.tokenize("hello world, the first question")
        first = engine.generate(prompt, GREEDY, max_tokens=8)
        reply = [piece.token for piece in first if piece.token is not None]
        longer = [*prompt, *reply, *engine.tokenize("and another")]
        second = engine.generate(longer, GREEDY, max_tokens=30)
        continued = [piece.token for piece in second]
        assert second.result.reused_tokens == len(prompt) + len(reply) - 1  # the last one was never evaluated
    with Engine.open(random_model, EngineOptions(threads=1)) as engine:
        fresh = engine.generate(longer, GREEDY, max_tokens=30)
        assert [piece.token for piece in fresh] == continued
        assert fresh.result.reused_tokens == 0


def test_a_prompt_that_differs_is_read_from_there_on(engine: Engine) -> None:
    common, first, second = ([*map(ord, text)] for text in ("abcdef", "ghi", "xyz!"))
    engine.generate([*common, *first], GREEDY, max_tokens=5).result  # noqa: B018 - runs it
    result = engine.generate([*common, *second], GREEDY, max_tokens=5).result
    assert result.reused_tokens == len(common)
    again = engine.generate([*common, *second], GREEDY, max_tokens=5).result
    assert again.text == result.text
    assert again.reused_tokens == len(common) + len(second) - 1


def test_after_any_interruption_the_memory_is_what_it_should_be(random_model: Path) -> None:
    source = random.Random(1)
    with Engine.open(random_model, EngineOptions(threads=1)) as engine:
        prompt: list[int] = []
        for _ in range(20):
            prompt = prompt[: source.randrange(len(prompt) + 1)] + [source.randrange(256) for _ in range(20)]
            generation = engine.generate(prompt, GREEDY, max_tokens=10)
            for _ in range(source.randrange(4)):
                next(generation, None)
            if source.random() < 0.5:
                engine.interrupt()
        final = engine.generate(prompt, GREEDY, max_tokens=10).result.text
    with Engine.open(random_model, EngineOptions(threads=1)) as engine:
        assert engine.generate(prompt, GREEDY, max_tokens=10).result.text == final


# ---- stopping


def test_interrupt_ends_the_reply_after_the_current_token(tmp_path: Path) -> None:
    with scripted(tmp_path / "m.gguf", tiny_model.ids("abc"), endless=True) as engine:
        generation = engine.generate([START], GREEDY)
        for number, _ in enumerate(generation, 1):
            if number == 5:
                engine.interrupt()
        assert generation.result.text == "abcab"
        assert generation.result.finish_reason is FinishReason.INTERRUPTED


def test_interrupt_from_another_thread_stops_a_long_prompt(tmp_path: Path) -> None:
    tiny_model.write(tmp_path / "m.gguf", training_context=32768)
    with Engine.open(tmp_path / "m.gguf", EngineOptions(context_size=0, threads=1)) as engine:
        generation = engine.generate([START] * 30000, GREEDY)
        threading.Timer(0.3, engine.interrupt).start()
        result = generation.result
        assert result.finish_reason is FinishReason.INTERRUPTED
        assert result.generated_tokens == 0
        assert held(engine) < 30000
        assert engine.generate([START] * 5, GREEDY, max_tokens=3).result.generated_tokens == 3


def test_ctrl_c_in_a_long_prompt_raises_in_the_caller(tmp_path: Path) -> None:
    tiny_model.write(tmp_path / "m.gguf", training_context=32768)
    with Engine.open(tmp_path / "m.gguf", EngineOptions(context_size=0, threads=1)) as engine:
        threading.Timer(0.3, os.kill, [os.getpid(), signal.SIGINT]).start()
        with pytest.raises(KeyboardInterrupt):
            engine.generate([START] * 30000, GREEDY).result  # noqa: B018 - runs it
        assert held(engine) < 30000


def test_a_signal_that_somebody_else_handles_stops_nothing_and_reaches_both(tmp_path: Path) -> None:
    tiny_model.write(tmp_path / "m.gguf", training_context=32768)
    seen: list[int] = []
    end, entry = os.pipe()
    os.set_blocking(entry, False)
    handler = signal.signal(signal.SIGUSR1, lambda number, _: seen.append(number))
    listener = signal.set_wakeup_fd(entry)  # as an event loop has one
    try:
        with Engine.open(tmp_path / "m.gguf", EngineOptions(context_size=0, threads=1)) as engine:
            timer = threading.Timer(0.1, os.kill, [os.getpid(), signal.SIGUSR1])
            timer.start()
            result = engine.generate([START] * 20000, GREEDY, max_tokens=1).result
            timer.join()
        assert result.generated_tokens == 1
        assert seen == [signal.SIGUSR1]
        assert os.read(end, 1) == bytes([signal.SIGUSR1])
    finally:
        signal.set_wakeup_fd(listener)
        signal.signal(signal.SIGUSR1, handler)
        os.close(end)
        os.close(entry)


def held(engine: Engine) -> int:
    assert engine._context
    return engine._context.used()


def test_the_likeliest_token_is_the_one_that_llama_cpps_chain_takes(tmp_path: Path) -> None:
    tiny_model.write(tmp_path / "m.gguf")
    with Engine.open(tmp_path / "m.gguf", EngineOptions(threads=1)) as engine:
        context, lib = engine._context, engine._model.lib
        assert context
        chain = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
        lib.llama_sampler_chain_add(chain, lib.llama_sampler_init_greedy())
        for token in (START, 5, 6, 7):
            context.decode([token])
            expected = lib.llama_sampler_sample(chain, context.handle, -1)
            assert context.likeliest() == expected
            without = engine._sampler(replace(GREEDY, logit_bias=((expected, -math.inf),)), 1, ())
            logits = context.last_logits().copy()
            logits[expected] = -math.inf
            assert without.sample(context) == logits.argmax()
            more = engine._sampler(replace(GREEDY, logit_bias=((9, 100.0),)), 1, ())
            assert more.sample(context) == 9
        context.last_logits()[3] = math.nan
        with pytest.raises(LlamaCppError, match="not numbers"):
            context.likeliest()
        lib.llama_sampler_free(chain)


# ---- logits


def test_logits_are_those_that_generating_sees(engine: Engine) -> None:
    prompt = engine.tokenize("hello world, the ending")
    logits = engine.logits(prompt)
    assert logits.shape == (len(prompt), engine.vocabulary_size)
    assert logits.dtype == np.float32
    generation = engine.generate(prompt, GREEDY, max_tokens=1)
    assert next(generation).token == int(logits[-1].argmax())


def test_logits_of_many_tokens_are_those_of_few(random_model: Path) -> None:
    exact = EngineOptions(
        threads=1, flash_attention=FlashAttention.OFF, cache_type_k=CacheType.F32, cache_type_v=CacheType.F32
    )
    with Engine.open(random_model, exact) as engine:
        source = random.Random(3)
        tokens = [source.randrange(engine.vocabulary_size) for _ in range(300)]  # more than are computed at once
        logits = engine.logits(tokens)
        np.testing.assert_allclose(engine.logits(tokens[:7]), logits[:7], atol=2e-4)
        np.testing.assert_allclose(engine.logits(tokens[:200])[199], logits[199], atol=2e-4)


def test_logits_leave_the_conversation_alone(engine: Engine) -> None:
    prompt = engine.tokenize("hello world, the ending")
    engine.generate(prompt, GREEDY, max_tokens=4).result  # noqa: B018 - runs it
    engine.logits(engine.tokenize("something else"))
    assert engine.generate(prompt, GREEDY, max_tokens=4).result.reused_tokens == len(prompt) - 1


# ---- options


def test_values_quantized_without_flash_attention_are_refused_at_once() -> None:
    with pytest.raises(UsageError, match="-fa auto, or -ctv f16"):
        EngineOptions(cache_type_v=CacheType.Q8_0, flash_attention=FlashAttention.OFF)


def test_the_context_is_what_the_model_was_trained_for_but_at_most_8192(tmp_path: Path) -> None:
    for trained, wanted, expected in ((512, None, 512), (100_000, None, 8192), (10_000, 0, 10_000), (512, 600, 600)):
        tiny_model.write(tmp_path / "m.gguf", training_context=trained)
        with Engine.open(tmp_path / "m.gguf", EngineOptions(context_size=wanted, threads=1)) as engine:
            assert engine.context_size == expected


def test_a_context_beyond_the_memory_is_refused_with_one_that_fits(random_model: Path) -> None:
    with pytest.raises(InputError, match=r"2000000000 tokens takes 512\.0 GB") as caught:
        Engine.open(random_model, EngineOptions(context_size=2_000_000_000))
    assert "-c " in str(caught.value.hint)


def test_the_models_file_gives_the_sampling_defaults(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    asked = {"general.sampling.temp": 0.5, "general.sampling.top_k": 7, "general.sampling.top_p": 7.0}
    tiny_model.write(path, metadata=asked)
    with Engine.open(path, EngineOptions(vocabulary_only=True)) as engine:
        assert engine.sampling_defaults() == SamplingOptions(temperature=0.5, top_k=7)  # a top_p of 7 makes no sense


@pytest.mark.parametrize(
    "wrong",
    [{"temperature": -1}, {"temperature": float("nan")}, {"top_p": 1.5}, {"min_p": -0.1}, {"top_k": -1},
     {"repeat_penalty": 0}, {"seed": -1}, {"seed": 2**32}],
)  # fmt: skip
def test_sampling_options_refuse_nonsense(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        SamplingOptions(**wrong)


def test_unknown_options_are_refused() -> None:
    with pytest.raises(TypeError, match="n_ctx"):
        EngineOptions(n_ctx=512)


def test_without_weights_only_the_vocabulary_works(random_model: Path) -> None:
    with Engine.open(random_model, EngineOptions(vocabulary_only=True)) as engine:
        assert engine.text_of(engine.tokenize("hello")) == "hello"
        with pytest.raises(UsageError, match="only the vocabulary"):
            engine.generate([1])


# ---- files that are no models


def write_bytes(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.fixture
def broken(tmp_path: Path, random_model: Path) -> dict[str, Path]:
    good = random_model.read_bytes()
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint/config.json").write_text("{}")
    return {
        "missing": tmp_path / "missing.gguf",
        "empty": write_bytes(tmp_path / "empty.gguf", b""),
        "text": write_bytes(tmp_path / "text.gguf", b"<!doctype html>"),
        "pointer": write_bytes(tmp_path / "lfs.gguf", b"version https://git-lfs.github.com/spec/v1\n"),
        "version": write_bytes(tmp_path / "version.gguf", good[:4] + b"\x63\0\0\0" + good[8:]),
        "big-endian": write_bytes(tmp_path / "big.gguf", good[:4] + b"\0\0\0\x03" + good[8:]),
        "header": write_bytes(tmp_path / "header.gguf", good[:10]),
        "cut": write_bytes(tmp_path / "cut.gguf", good[: len(good) // 2]),
        "checkpoint": tmp_path / "checkpoint",
        "folder": tmp_path,
    }


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing", "there is no file"),
        ("empty", "is empty"),
        ("text", "not a GGUF file"),
        ("pointer", "Git LFS pointer"),
        ("version", "version 99"),
        ("big-endian", "big-endian"),
        ("header", "the file ends inside"),
        ("cut", "cut.gguf"),
        ("checkpoint", "checkpoint folder"),
        ("folder", "is a folder"),
    ],
)
def test_a_file_that_is_no_model_is_named_and_explained(broken: dict[str, Path], name: str, message: str) -> None:
    with pytest.raises(GgufFileError, match=message) as caught:
        Engine.open(broken[name])
    assert str(broken[name]) in str(caught.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("general.architecture", "llama2"),
        ("llama.block_count", 0),
        ("llama.block_count", 1000),
        ("llama.attention.layer_norm_rms_epsilon", -1.0),
        ("llama.attention.layer_norm_rms_epsilon", float("nan")),
        ("llama.expert_count", "four"),
        ("llama.expert_count", 2000),
        ("llama.expert_used_count", 2),
        ("llama.rope.scaling.type", "zzz"),
        ("tokenizer.ggml.tokens", ["a", "a"]),
    ],
)
def test_metadata_that_llama_cpp_aborts_on_is_an_error_and_not_a_dead_process(
    tmp_path: Path, key: str, value: object
) -> None:
    path = tiny_model.write(tmp_path / "m.gguf", overrides={key: value})
    with pytest.raises(GgufFileError, match=key if key != "general.architecture" else "llama2"):
        Engine.open(path)


def test_a_file_without_a_vocabulary_computes_but_takes_no_text(tmp_path: Path) -> None:
    path = tiny_model.write(tmp_path / "m.gguf", overrides={"tokenizer.ggml.model": "no_vocab"})
    with Engine.open(path, EngineOptions(threads=1)) as engine:
        assert engine.generate([1, 2], GREEDY, max_tokens=3).result.text == ""
        assert engine.token_text(5) == ""
        with pytest.raises(GgufFileError, match="no vocabulary"):
            engine.tokenize("hello")


def test_weights_that_are_not_numbers_are_an_error_and_not_a_dead_process(tmp_path: Path) -> None:
    path = tiny_model.write(tmp_path / "m.gguf")
    content = bytearray(path.read_bytes())
    content[-1000:] = np.full(250, np.nan, np.float32).tobytes()
    path.write_bytes(content)
    with Engine.open(path, EngineOptions(threads=1)) as engine, pytest.raises(LlamaCppError, match="not numbers"):
        engine.generate([1, 2, 3], max_tokens=5).result  # noqa: B018 - runs it


# ---- what the binding has no option for


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"devices": ("TPU7",)}, "there is no device TPU7; this build sees"),
        ({"tensor_overrides": (TensorOverride("blk", "NPU"),)}, "there is no buffer type NPU for blk; this build has"),
    ],
)
def test_devices_that_are_not_there_are_named(random_model: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Engine.open(random_model, EngineOptions(**options))


def test_placement_changes_nothing_but_the_place(random_model: Path) -> None:
    placed = EngineOptions(
        threads=1,
        tensor_overrides=(TensorOverride(r"blk\.0\..*", "CPU"),),
        devices=(),
        load_mode=LoadMode.NONE,
        repack=False,
    )
    with Engine.open(random_model, placed) as engine, Engine.open(random_model, EngineOptions(threads=1)) as usual:
        prompt = engine.tokenize("hello world")
        assert (engine.logits(prompt) == usual.logits(prompt)).all()


def test_a_grammar_holds_the_reply_to_it(engine: Engine) -> None:
    prompt = engine.tokenize("hello")
    grammar = 'root ::= ("a" | "b") ("c" | "d") "!"'
    for seed in range(5):
        text = engine.generate(prompt, SamplingOptions(grammar=grammar, seed=seed)).result.text
        assert re.fullmatch("[ab][cd]!", text)


def test_a_grammar_that_is_none_is_an_error_on_our_terms(engine: Engine, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match="not valid GBNF: Undefined rule identifier 'missing'"):
        engine.generate([1], SamplingOptions(grammar="root ::= missing")).result  # noqa: B018 - runs it
    assert capfd.readouterr() == ("", "")


def test_ends_are_ignored_when_asked(tmp_path: Path) -> None:
    with scripted(tmp_path / "m.gguf", tiny_model.ids("ab")) as engine:
        endless = SamplingOptions(temperature=0, ignore_eos=True)
        assert engine.generate([START], GREEDY, max_tokens=9).result.generated_tokens == 2
        assert engine.generate([START], endless, max_tokens=9).result.generated_tokens == 9
