"""Answers without a model: deterministic, independent of order, and what their names say."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from bench.data.readers.psalm import PsalmDataset
from bench.evaluate import baselines
from bench.evaluate.baselines import BASELINES, predict
from bench.evaluate.metrics import mask_box

RANDOM, LARGEST = "baseline:random-object", "baseline:largest-object"


def test_empty_and_full_do_not_look(examples):
    example = examples[0]
    assert not predict("baseline:empty", example, [], 0).mask.any()
    assert predict("baseline:empty", example, [], 0).box is None
    assert predict("baseline:full", example, [], 0).mask.all()
    assert predict("baseline:full", example, [], 0).box == (0, 0, 64, 48)


def test_the_largest_object(examples):
    objects = [example.mask for example in examples[:3]]
    found = predict(LARGEST, examples[0], objects, 0).mask
    assert found.sum() == max(mask.sum() for mask in objects)
    assert any(np.array_equal(found, mask) for mask in objects)


def test_the_random_object_is_one_of_the_scene_each_as_often(squares):
    dataset = squares(60)
    counts = Counter()
    for example in dataset.examples:
        objects = dataset.objects(example.image_id)
        found = predict(RANDOM, example, objects, 0).mask
        counts[next(i for i, mask in enumerate(objects) if np.array_equal(mask, found))] += 1
    assert min(counts[i] for i in range(3)) > 40


def test_the_random_object_depends_on_question_and_seed_alone(squares):
    dataset = squares(20)

    def answers(indices, seed):
        return {
            i: predict(RANDOM, dataset[i], dataset.objects(dataset[i].image_id), seed).mask.tobytes() for i in indices
        }

    forth = answers(range(60), 1)
    assert answers(reversed(range(60)), 1) == forth
    assert answers(range(60), 2) != forth


def test_the_random_object_is_drawn_anew_for_every_question(squares):
    dataset = squares(1)
    questions = [replace(dataset[0], expressions=(f"question {i}",)) for i in range(30)]
    assert len({predict(RANDOM, q, dataset.objects(0), 0).mask.tobytes() for q in questions}) == 3


@pytest.mark.parametrize("name", BASELINES)
def test_a_scene_without_objects_is_answered(name, examples):
    found = predict(name, examples[0], [], 0)
    assert found.mask.shape == (48, 64)
    assert found.failure is None


@pytest.mark.parametrize("name", BASELINES)
def test_the_written_box_is_the_box_of_the_mask(name, examples):
    found = predict(name, examples[0], [example.mask for example in examples[:3]], 0)
    assert found.box == mask_box(found.mask)


def test_no_baseline_chooses_among_objects_where_only_the_targets_are_annotated(squares):
    """It would know the answer."""
    dataset = squares(1)
    assert all(baselines.applies(name, dataset) for name in baselines.BASELINES)
    dataset.knows_objects = False
    assert [name for name in baselines.BASELINES if baselines.applies(name, dataset)] == [
        "baseline:empty", "baseline:full",
    ]  # fmt: skip
    assert not PsalmDataset.knows_objects
    dataset.serves = "boxes"
    assert not any(baselines.applies(name, dataset) for name in baselines.BASELINES)
