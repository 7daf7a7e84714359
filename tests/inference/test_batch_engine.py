"""Many prompts in one context: each gets the reply that it would get alone."""

import random
from pathlib import Path

import pytest
import recipes
import tiny_model
import tokenless

from ggufkit.errors import GgufFileError, GgufkitError, InputError, UsageError
from ggufkit.inference.batch_engine import BatchEngine
from ggufkit.inference.batch_requests import BatchRequest
from ggufkit.inference.engine import Engine
from ggufkit.inference.generation import FinishReason, GenerationResult
from ggufkit.inference.options import EngineOptions, SamplingOptions
from ggufkit.llamacpp import native

pytestmark = pytest.mark.engine

GREEDY = SamplingOptions(temperature=0)
OPTIONS = EngineOptions(threads=1, context_size=256)


def asked(prompts: list[list[int]], sampling: SamplingOptions = GREEDY, **more: object) -> list[BatchRequest]:
    return [
        BatchRequest(key=key, tokens=tuple(prompt), sampling=sampling, **{"max_tokens": 20, **more})
        for key, prompt in enumerate(prompts)
    ]


def alone(model: Path, requests: list[BatchRequest]) -> list[str]:
    with Engine.open(model, OPTIONS) as engine:
        return [
            engine.generate(each.tokens, each.sampling, max_tokens=each.max_tokens, stop=each.stop).result.text
            for each in requests
        ]


def together(
    model: Path, requests: list[BatchRequest], sequences: int = 5
) -> dict[int, GenerationResult | GgufkitError]:
    with BatchEngine.open(model, OPTIONS, sequences=sequences) as engine:
        return dict(engine.run(requests))


def texts(results: dict[int, GenerationResult | GgufkitError]) -> list[str]:
    return [result.text for _, result in sorted(results.items()) if isinstance(result, GenerationResult)]


def prompts(count: int, longest: int, seed: int = 1) -> list[list[int]]:
    source = random.Random(seed)
    return [[source.randrange(256) for _ in range(source.randrange(1, longest))] for _ in range(count)]


@pytest.mark.parametrize("sequences", [1, 4, 32])
def test_prompts_of_any_length_get_the_replies_that_they_get_alone(random_model: Path, sequences: int) -> None:
    requests = asked(prompts(30, 150))
    assert texts(together(random_model, requests, sequences)) == alone(random_model, requests)


def test_short_prompts_get_the_replies_that_they_get_in_a_long_context(tmp_path: Path) -> None:
    """There attention is not fused, which is rounded differently: a model of chance answers otherwise to one in ten."""
    model = tiny_model.write(tmp_path / "model.gguf", training_context=4096)
    requests = asked(prompts(60, 150), max_tokens=40)
    with Engine.open(model, EngineOptions(threads=1)) as engine:
        wanted = [engine.generate(each.tokens, GREEDY, max_tokens=40).result.text for each in requests]
    for options, room in ((EngineOptions(threads=1, context_size=2048), None), (OPTIONS, 4096)):
        with BatchEngine.open(model, options, sequences=16, room_alone=room) as batch:
            found = texts(dict(batch.run(requests)))
        assert sum(ours != alone for ours, alone in zip(found, wanted, strict=True)) <= 1  # six, fused


def test_a_seed_draws_the_same_reply_alone_and_among_others(random_model: Path) -> None:
    hot = SamplingOptions(temperature=1.5, seed=11, repeat_penalty=1.1)
    requests = asked(prompts(12, 40), hot)
    assert texts(together(random_model, requests)) == alone(random_model, requests)


def test_each_prompt_has_its_own_wishes(random_model: Path) -> None:
    prompt = tuple(prompts(1, 40)[0])
    free = BatchRequest(key=0, tokens=prompt, sampling=GREEDY, max_tokens=12)
    yes = BatchRequest(key=1, tokens=prompt, sampling=SamplingOptions(grammar='root ::= "yes" | "no"'))
    one = BatchRequest(key=2, tokens=prompt, sampling=GREEDY, max_tokens=1, top_scores=3)
    results = together(random_model, [free, yes, one])
    assert texts(results)[1] in {"yes", "no"}
    first = results[2]
    assert isinstance(first, GenerationResult)
    assert (first.generated_tokens, first.finish_reason) == (1, FinishReason.LENGTH)
    assert first.scores is not None
    assert len(first.scores[0].top) == 3
    assert texts(results)[0].startswith(first.text)


def test_stop_strings_end_one_reply_only(tmp_path: Path) -> None:
    start = tiny_model.token("\u010a")
    model = tiny_model.write(tmp_path / "m.gguf", successors=tiny_model.chain(start, tiny_model.ids("one, END")))
    requests = [*asked([[start]]), *(BatchRequest(key=1, tokens=(start,), sampling=GREEDY, stop=(", E",)),)]
    results = together(model, requests)
    assert texts(results) == ["one, END", "one"]


def test_a_common_beginning_is_read_once(random_model: Path) -> None:
    common = prompts(1, 2, seed=5)[0] * 40
    requests = asked([[*common, *prompt] for prompt in prompts(10, 20)])
    results = together(random_model, requests)
    assert all(result.reused_tokens == 40 for result in results.values() if isinstance(result, GenerationResult))
    assert texts(results) == alone(random_model, requests)


@pytest.mark.parametrize("name", ["mamba", "falcon-h1", "gemma2"])
def test_states_and_windows_are_kept_apart(name: str, tmp_path: Path) -> None:
    """These models have no tokenizer, so their replies are compared as tokens."""
    model = tokenless.convert(recipes.checkpoint(name, tmp_path / name))
    common = [7, 9, 11] * 5
    requests = asked([[*common, *(token % 50 for token in prompt)] for prompt in prompts(9, 30)], top_scores=0)
    results = together(model, requests)
    with Engine.open(model, OPTIONS) as engine:
        for request in requests:
            alone = engine.generate(request.tokens, GREEDY, max_tokens=20, top_scores=0).result
            among = results[request.key]
            assert isinstance(among, GenerationResult)
            assert [score.token for score in among.scores or ()] == [score.token for score in alone.scores or ()]


def test_of_a_long_beginning_only_what_an_attention_window_still_shows_is_reused(tmp_path: Path) -> None:
    model = tokenless.convert(recipes.checkpoint("gemma2", tmp_path / "gemma2"))
    source = random.Random(2)
    common = [source.randrange(50) for _ in range(900)]
    # The first eight, which are looked at together, share all of it; the ninth shares a third.
    requests = asked([[*common, number] for number in range(8)] + [[*common[:300], 7]], top_scores=0)
    options = EngineOptions(threads=1, context_size=1024, micro_batch_size=32)
    with BatchEngine.open(model, options, sequences=1) as batch:
        results = dict(batch.run(requests))
    with Engine.open(model, options) as engine:
        alone = engine.generate(requests[8].tokens, GREEDY, max_tokens=20, top_scores=0).result
    reused = [result.reused_tokens for _, result in sorted(results.items()) if isinstance(result, GenerationResult)]
    assert reused == [900] * 8 + [0]
    among = results[8]
    assert isinstance(among, GenerationResult)
    assert [score.token for score in among.scores or ()] == [score.token for score in alone.scores or ()]


def test_what_cannot_be_answered_does_not_disturb_the_others(random_model: Path) -> None:
    good = asked(prompts(4, 40))
    long = BatchRequest(key=10, tokens=(1,) * 300, sampling=GREEDY)
    outside = BatchRequest(key=11, tokens=(10**6,), sampling=GREEDY)
    empty = BatchRequest(key=12, tokens=(), sampling=GREEDY)
    wrong = BatchRequest(key=13, tokens=(1,), sampling=SamplingOptions(grammar="root ::= missing"))
    results = together(random_model, [long, *good[:2], outside, empty, wrong, *good[2:]])
    assert texts(results) == alone(random_model, good)
    refused = {key: result for key, result in results.items() if isinstance(result, GgufkitError)}
    assert {key: type(error) for key, error in refused.items()} == {
        10: InputError,
        11: UsageError,
        12: UsageError,
        13: InputError,
    }
    assert "300 tokens, but the context holds 256" in str(refused[10])


def test_replies_end_where_the_context_of_each_does(tmp_path: Path) -> None:
    model = tiny_model.saying(tmp_path / "m.gguf", "abc", endless=True)
    start = tiny_model.token("\u010a")
    results = together(model, asked([[start], [start] * 100], max_tokens=None))
    for result in results.values():
        assert isinstance(result, GenerationResult)
        assert result.context_full
        assert result.prompt_tokens + result.generated_tokens == 257  # the last one needs no place


def test_an_interrupt_before_the_first_step_counts(random_model: Path) -> None:
    """Ctrl-C may come while the model is there, but the first prompt is not made yet."""
    with BatchEngine.open(random_model, OPTIONS, sequences=2) as engine:
        run = engine.run(asked(prompts(6, 20)))
        engine.interrupt()
        assert list(run) == []
        assert len(dict(engine.run(asked(prompts(6, 20))))) == 6


def test_a_run_given_up_touches_nothing_that_was_freed(random_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error in the caller's loop closes the engine before the iterator, which an exception keeps alive."""
    cut, freed = native.Context.cut, []

    def watched(self: native.Context, position: int, sequence: int = 0) -> bool:
        freed.append(not self.handle)
        return cut(self, position, sequence)

    monkeypatch.setattr(native.Context, "cut", watched)
    with BatchEngine.open(random_model, OPTIONS, sequences=4) as engine:
        run = engine.run(asked(prompts(12, 20)))
        next(run)
    run.close()
    assert not any(freed)


def test_interrupt_ends_the_run_and_the_engine_can_go_on(random_model: Path) -> None:
    requests = asked(prompts(20, 30), max_tokens=None, sampling=SamplingOptions(temperature=0, ignore_eos=True))
    with BatchEngine.open(random_model, OPTIONS, sequences=3) as engine:
        done = 0
        for _ in engine.run(requests):
            done += 1
            engine.interrupt()
        assert 1 <= done < 20
        short = asked(prompts(5, 30))
        assert texts(dict(engine.run(short))) == alone(random_model, short)


def test_encoders_are_refused(tmp_path: Path) -> None:
    model = tokenless.convert(recipes.checkpoint("t5", tmp_path / "t5"))
    with pytest.raises(GgufFileError, match="model with an encoder"):
        BatchEngine.open(model, OPTIONS)


@pytest.mark.parametrize("sequences", [0, 256])
def test_senseless_numbers_of_sequences_are_refused(random_model: Path, sequences: int) -> None:
    with pytest.raises(UsageError, match="1 to 255"):
        BatchEngine.open(random_model, OPTIONS, sequences=sequences)
