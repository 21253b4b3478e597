"""Which sample comes when: a function of the seed and the step alone, and fair."""

import copy
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.data.sampler import MixtureComponent, Sampler
from methods.base import UserError


def order(squares, tasks=None, available=7, images=3, expressions_per_image=2, seed=0) -> Sampler:
    tasks = tasks or {"box": 1.0}
    return Sampler(
        [MixtureComponent({task: squares(available) for task in tasks}, tasks)], images, expressions_per_image, seed
    )


def facts(drawn) -> list[tuple]:
    """What identifies a step, its random streams included."""
    numbers = {}
    found = []
    for d in drawn:
        numbers.setdefault(id(d.rng), []).append(len(found))
        found.append([d.example.ref_id, d.example.expressions, d.task])
    for rows in numbers.values():  # the samples of one image share a stream
        draws = drawn[rows[0]].rng.integers(2**60, size=len(rows))
        for row, value in zip(rows, draws.tolist(), strict=True):
            found[row].append(value)
    return [tuple(entry) for entry in found]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 500), st.lists(st.integers(0, 500), max_size=5), st.integers(0, 5))
def test_a_step_depends_on_nothing_that_came_before(squares, step, before, seed):
    fresh, used = order(squares, seed=seed), order(squares, seed=seed)
    for other in before:
        used(other)
    assert facts(fresh(step)) == facts(used(step))
    assert facts(used(step)) == facts(used(step))


def test_seeds_and_steps_differ(squares):
    assert facts(order(squares, seed=1)(4)) != facts(order(squares, seed=2)(4))
    assert facts(order(squares)(4)) != facts(order(squares)(5))


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 11), st.integers(1, 5), st.integers(0, 100))
def test_every_image_is_seen_once_before_any_is_seen_twice(squares, available, images, seed):
    drawn = order(squares, available=available, images=images, expressions_per_image=1, seed=seed)
    steps = -(-3 * available // images)
    seen = [d.example.image_id for step in range(steps) for d in drawn(step)]
    for epoch in range(3):
        part = seen[epoch * available : (epoch + 1) * available]
        assert sorted(part) == list(range(available))


def test_epochs_differ_in_their_order(squares):
    drawn = order(squares, available=11, images=11, expressions_per_image=1)
    assert len({tuple(d.example.image_id for d in drawn(step)) for step in range(4)}) == 4


def test_an_image_shares_no_sample_with_itself_until_all_are_used(squares):
    drawn = order(squares, expressions_per_image=3)
    for step in range(10):
        samples = drawn(step)
        for start in range(0, len(samples), 3):
            group = samples[start : start + 3]
            assert len({d.example.image_id for d in group}) == 1
            assert len({d.example.ref_id for d in group}) == 3
    repeated = order(squares, expressions_per_image=5)(0)[:5]
    assert Counter(d.example.ref_id for d in repeated).most_common()[-1][1] >= 1
    assert len({d.example.ref_id for d in repeated}) == 3


def test_one_expression_is_chosen_and_all_are_used(squares):
    drawn = order(squares)
    chosen = [d.example.expressions for step in range(60) for d in drawn(step)]
    assert {len(expressions) for expressions in chosen} == {1}
    assert len(set(chosen)) == 6  # three colours, two sentences each


def test_tasks_take_their_shares(squares):
    weights = {"box": 6.0, "segment": 3.0, "caption": 1.0, "never": 0.0}
    drawn = order(squares, weights, available=20, images=10)
    counts = Counter(d.task for step in range(200) for d in drawn(step))
    assert counts["never"] == 0
    shares = [counts[task] / counts.total() for task in ("box", "segment", "caption")]
    assert shares == pytest.approx([0.6, 0.3, 0.1], abs=0.03)


def test_an_image_that_a_task_lacks_is_served_by_another(squares):
    both = MixtureComponent({"box": squares(2), "caption": squares(5)}, {"box": 1.0, "caption": 1.0})
    drawn = Sampler([both], 5, 1, 0)
    tasks = {}
    for step in range(40):
        for d in drawn(step):
            tasks.setdefault(d.example.image_id, set()).add(d.task)
    assert tasks == {0: {"box", "caption"}, 1: {"box", "caption"}, 2: {"caption"}, 3: {"caption"}, 4: {"caption"}}


def test_random_streams_of_images_differ(squares):
    samples = order(squares, images=5, expressions_per_image=1)(0)
    assert len({int(d.rng.integers(2**60)) for d in samples}) == 5
    assert all(isinstance(d.rng, np.random.Generator) for d in samples)


@pytest.mark.parametrize("tasks", [{}, {"box": 0.0}])
def test_nothing_to_draw_is_an_error(squares, tasks):
    with pytest.raises(UserError, match="no images"):
        Sampler([MixtureComponent({task: squares(2) for task in tasks}, tasks)], 1, 1, 0)


def test_a_dataset_without_images_is_an_error(squares):
    with pytest.raises(UserError, match=r"no images; build it with data\.train_scenes"):
        Sampler([MixtureComponent({"box": squares(0)}, {"box": 1.0})], 1, 1, 0)


def test_images_may_have_numbers_and_names(squares):
    numbers = squares(3)
    names = copy.copy(numbers)
    names.by_image = lambda: [(f"{image}.jpg", indices) for image, indices in numbers.by_image()]
    source = MixtureComponent({"box": numbers, "caption": names}, {"box": 1.0, "caption": 1.0})
    assert source.image_ids == [0, 1, 2, "0.jpg", "1.jpg", "2.jpg"]
