"""The knapsack against brute force, on random tensors and budgets."""

import itertools
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ggufkit.allocation.knapsack import Item, frontier, largest, smallest, solve


def made(seed: int, count: int) -> list[Item]:
    chance = random.Random(seed)
    items = []
    for _ in range(count):
        weights = 256 * chance.randint(1, 40)
        sensitivity = math.exp(chance.gauss(0, 2))
        bits = sorted(chance.sample([2.625, 3.4375, 4.25, 4.5, 5.5, 6.5625, 8.5], chance.randint(1, 6)))
        noise = [math.exp(chance.gauss(0, 0.3)) for _ in bits]
        costs = [sensitivity * 2 ** (-2 * each) * part for each, part in zip(bits, noise, strict=True)]
        items.append(Item((*(int(weights * each / 8) for each in bits), 2 * weights), (*costs, 0.0)))
    return items


def best_by_trying_all(items: list[Item], budget: int) -> float:
    return min(
        sum(item.costs[option] for item, option in zip(items, options, strict=True))
        for options in itertools.product(*(range(len(item.sizes)) for item in items))
        if sum(item.sizes[option] for item, option in zip(items, options, strict=True)) <= budget
    )


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), count=st.integers(1, 5), share=st.floats(0, 1))
def test_finds_the_best_choice_that_fits(seed: int, count: int, share: float) -> None:
    items = made(seed, count)
    budget = smallest(items) + int(share * (largest(items) - smallest(items)))
    found = solve(items, budget)
    assert found is not None
    assert found.size <= budget
    assert found.size == sum(item.sizes[option] for item, option in zip(items, found.options, strict=True))
    assert found.cost == pytest.approx(best_by_trying_all(items, budget), rel=1e-9, abs=1e-15)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 10**6), count=st.integers(6, 30), share=st.floats(0.01, 0.99))
def test_spends_nearly_all_of_the_budget_and_more_bytes_never_cost_more(seed: int, count: int, share: float) -> None:
    items = made(seed, count)
    budget = smallest(items) + int(share * (largest(items) - smallest(items)))
    found, again = solve(items, budget), solve(items, budget)
    more = solve(items, budget + budget // 50)
    assert found is not None
    assert more is not None
    assert found == again
    assert found.size <= budget
    assert more.cost <= found.cost * (1 + 1e-9)
    for one, other in zip(found.options, items, strict=True):
        cheaper = [size for size, cost in zip(other.sizes, other.costs, strict=True) if cost < other.costs[one]]
        assert all(size - other.sizes[one] > budget - found.size for size in cheaper), "a better type would still fit"


def test_refuses_what_cannot_fit() -> None:
    items = made(1, 4)
    assert solve(items, smallest(items) - 1) is None


def test_uses_the_least_share_where_it_can() -> None:
    # The second type is larger and no better: without a least size nothing would be gained by it.
    items = [Item((100, 200), (1.0, 1.0)) for _ in range(10)]
    assert solve(items, 1510, 1490).size == 1500


def test_uses_the_least_share_even_where_larger_types_are_worse() -> None:
    # As where the larger type has larger blocks, whose scales lose more of the inputs.
    items = [Item((100, 200, 1000), (1.0, 1.1, 0.0)) for _ in range(10)]
    found = solve(items, 1510, 1490)
    assert found.size == 1500
    assert found.cost == pytest.approx(5 * 1.0 + 5 * 1.1)


def test_frontier_grows_in_size_and_falls_in_cost() -> None:
    points = frontier(made(7, 30))
    assert points[-1].cost == 0
    assert all(one.size < other.size and one.cost > other.cost for one, other in itertools.pairwise(points))
    slopes = [(one.cost - other.cost) / (other.size - one.size) for one, other in itertools.pairwise(points)]
    assert all(one >= other - 1e-18 for one, other in itertools.pairwise(slopes))


@pytest.mark.parametrize("cost", [math.inf, math.nan])
def test_a_cost_that_is_no_number_ends_the_choice_all_the_same(cost: float) -> None:
    items = [Item((100, 150, 200), (cost, cost, 0.0)), Item((100, 150, 200), (1.0, 0.5, 0.0))]
    for budget in range(200, 401, 10):
        found = solve(items, budget)
        assert found is not None
        assert found.size <= budget
