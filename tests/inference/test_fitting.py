"""Which layers go where: nothing above what is free, nothing lost, and what llama.cpp itself would cut alike."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ggufkit.inference import fitting
from ggufkit.inference.fitting import Choice, Device, Kind, Sizes

GB = 10**9
MB = 10**6


def sizes(blocks: int = 32, *, block: int = 200 * MB, experts: int = 0, cache: int = 30 * MB) -> Sizes:
    return Sizes(
        weights=(block,) * blocks,
        experts=(experts,) * blocks,
        cache=(cache,) * blocks,
        input=300 * MB,
        output=400 * MB,
        compute=100 * MB,
    )


def cpu(free: int = 64 * GB) -> Device:
    return Device("CPU", Kind.CPU, free, 64 * GB)


def gpu(free: int, name: str = "CUDA0") -> Device:
    return Device(name, Kind.GPU, free, 24 * GB)


def worker(free: int, name: str = "box:50052", total: int = 64 * GB) -> Device:
    return Device(name, Kind.WORKER, free, total)


def counts(model: Sizes, *devices: Device, here: Device | None = None) -> tuple[int, ...]:
    return fitting.fit(model, here or cpu(), devices).counts


def test_a_gpu_with_room_gets_everything() -> None:
    assert fitting.fit(sizes(), cpu(), [gpu(24 * GB)]) == Choice((33,))


def test_a_small_gpu_gets_the_last_layers_that_fit() -> None:
    model = sizes()
    [count] = counts(model, gpu(4 * GB))
    assert 0 < count < 33
    free = fitting.capacity(gpu(4 * GB), model.compute)
    taken = [sum(model.layer(index) for index in range(33 - number, 33)) for number in (count, count + 1)]
    assert taken[0] <= free < taken[1]


def test_a_gpu_that_is_full_gets_nothing() -> None:
    assert counts(sizes(), gpu(300 * MB)) == (0,)


def test_of_two_gpus_one_is_used_where_one_is_enough() -> None:
    assert counts(sizes(), gpu(9 * GB), gpu(24 * GB, "CUDA1")) == (0, 33)


def test_two_gpus_share_what_neither_can_hold() -> None:
    first, second = counts(sizes(), gpu(6 * GB), gpu(6 * GB, "CUDA1"))
    assert first + second == 33
    assert abs(first - second) <= 3


def test_experts_stay_with_the_cpu_before_whole_layers_do() -> None:
    model = sizes(block=1000 * MB, experts=900 * MB)
    choice = fitting.fit(model, cpu(), [gpu(16 * GB)])
    assert choice.counts == (33,)
    assert 0 < choice.experts_with_cpu < 32
    here, there = fitting.shares(model, cpu(), [gpu(16 * GB)], choice)
    assert here.experts_of_others == 900 * MB * choice.experts_with_cpu
    assert there.fits
    fewer = Choice((33,), experts_with_cpu=choice.experts_with_cpu - 1)
    assert fitting.shares(model, cpu(), [gpu(16 * GB)], fewer)[1].needed > fitting.capacity(gpu(16 * GB), 0)


def test_workers_and_this_machine_share_by_memory_and_the_output_stays_here() -> None:
    choice = fitting.fit(sizes(), cpu(16 * GB), [worker(16 * GB), worker(32 * GB, "other:50052")])
    here, first, second = fitting.shares(
        sizes(), cpu(16 * GB), [worker(16 * GB), worker(32 * GB, "other:50052")], choice
    )
    assert choice.output_with_cpu
    assert here.has_output
    assert not second.has_output
    numbers = [share.end - share.first for share in (here, first, second)]
    assert sum(numbers) == 32
    assert abs(numbers[0] - numbers[1]) <= 1
    assert abs(numbers[2] - 2 * numbers[1]) <= 2


def test_every_worker_that_was_named_gets_a_block_of_a_small_model() -> None:
    model = sizes(4, block=MB, cache=MB)
    choice = fitting.fit(model, cpu(), [worker(1 * GB, "a", 2 * GB), worker(60 * GB, "b")])
    blocks = [
        share.end - share.first for share in fitting.shares(model, cpu(), [worker(1 * GB), worker(60 * GB)], choice)
    ]
    assert min(blocks) >= 1
    assert sum(blocks) == 4


def test_a_worker_is_not_given_more_than_it_has() -> None:
    small = worker(1 * GB, total=2 * GB)
    choice = fitting.fit(sizes(), cpu(8 * GB), [small, worker(40 * GB, "other")])
    assert fitting.shares(sizes(), cpu(8 * GB), [small, worker(40 * GB)], choice)[1].fits


def test_gpus_come_before_workers() -> None:
    on_worker, on_gpu = counts(sizes(), worker(32 * GB), gpu(4 * GB), here=cpu(8 * GB))
    assert on_gpu == counts(sizes(), gpu(4 * GB))[0]
    assert on_worker > 0


def test_memory_that_a_worker_calls_free_without_looking_is_not_believed() -> None:
    assert fitting.capacity(worker(64 * GB), 0) < fitting.capacity(worker(63 * GB), 0)


DEVICES = st.lists(
    st.builds(
        Device,
        st.sampled_from(["a", "b", "c"]),
        st.sampled_from([Kind.GPU, Kind.WORKER]),
        st.integers(0, 40 * GB),
        st.just(41 * GB),
    ),
    max_size=4,
).map(lambda found: sorted(found, key=lambda device: device.kind is Kind.GPU))


@given(st.integers(1, 100), st.integers(0, 2 * GB), st.integers(0, 60 * GB), DEVICES)
def test_all_layers_are_somewhere_and_no_device_is_overfull(
    blocks: int, block: int, free: int, devices: Sequence[Device]
) -> None:
    model = sizes(blocks, block=block, experts=block // 2)
    choice = fitting.fit(model, cpu(free), devices)
    found = fitting.shares(model, cpu(free), devices, choice)
    assert sum(share.end - share.first for share in found) == blocks
    assert sum(share.has_output for share in found) == 1
    whole = sum(model.weights) + model.input + model.output
    assert sum(share.weights for share in found) == whole
    assert all(share.fits for share in found[1:])
    assert 0 <= choice.gpu_layers <= model.layers


@given(st.lists(st.integers(0, 50), min_size=1, max_size=5).filter(any))
def test_shares_in_whole_layers_are_cut_where_they_say(parts: list[int]) -> None:
    assert fitting.split_counts(sum(parts), [float(part) for part in parts]) == tuple(parts)


@pytest.mark.parametrize(
    ("layers", "proportions", "expected"),
    [(33, (3, 1), (25, 8)), (33, (1, 1), (17, 16)), (10, (0, 1), (0, 10)), (3, (1, 1, 1, 1), (1, 1, 1, 0))],
)
def test_proportions_are_cut_as_llama_cpp_cuts_them(
    layers: int, proportions: tuple[float, ...], expected: tuple[int, ...]
) -> None:
    assert fitting.split_counts(layers, proportions) == expected
