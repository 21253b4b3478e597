"""Several datasets in one stage: exact shares, one order for every number of processes, and one sentence if it is
wrong."""

import json
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from bench.config import StageConfig, load_profile
from bench.data import mixture as mixtures
from bench.data.mixture import component_configs, open_mixture, serves, task_shares
from bench.data.sampler import MixtureComponent, Sampler, per_epoch
from bench.distributed import DistributedContext
from bench.train.batches import MicroBatches, stream
from methods.base import TrainingSample, UserError

TASKS = {"segment": 1.0, "box": 1.0}


def mixture(squares, sizes, amounts, key="repeat", images=2, seed=0, expressions_per_image=1) -> Sampler:
    return Sampler(
        [
            MixtureComponent(dict.fromkeys(TASKS, squares(size)), TASKS, name=f"s{i}", **{key: amount})
            for i, (size, amount) in enumerate(zip(sizes, amounts, strict=True))
        ],
        images, expressions_per_image, seed,
    )  # fmt: skip


def turns(order: Sampler, epochs: int) -> list[int]:
    """The source of each image of the first epochs."""
    return [order._turn(position)[0] for position in range(epochs * sum(order.counts))]


amounts = st.lists(
    st.tuples(st.integers(1, 6), st.sampled_from([0.25, 0.5, 1.0, 1.5, 2.0, 3.0])), min_size=1, max_size=4
)


@settings(max_examples=40, deadline=None)
@given(amounts, st.integers(0, 9))
def test_every_epoch_holds_each_source_as_often_as_it_says(squares, drawn, seed):
    sizes, repeats = zip(*drawn, strict=True)
    order = mixture(squares, sizes, repeats, seed=seed)
    wanted = [max(1, round(size * repeat)) for size, repeat in drawn]
    length = sum(wanted)
    found = turns(order, 3)
    for epoch in range(3):
        counts = Counter(found[epoch * length : (epoch + 1) * length])
        assert [counts[i] for i in range(len(sizes))] == wanted


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 9), st.floats(0.01, 9)), min_size=1, max_size=5))
def test_weights_share_out_as_many_images_as_there_are(squares, drawn):
    sizes, weights = zip(*drawn, strict=True)
    counts = mixture(squares, sizes, weights, "weight").counts
    shares = [weight / sum(weights) * sum(sizes) for weight in weights]
    assert all(count == max(1, count) and abs(count - share) <= 1 for count, share in zip(counts, shares, strict=True))


@settings(max_examples=30, deadline=None)
@given(amounts, st.integers(0, 9))
def test_a_source_shows_each_image_once_before_any_twice(squares, drawn, seed):
    sizes, repeats = zip(*drawn, strict=True)
    order = mixture(squares, sizes, repeats, images=1, seed=seed)
    seen: dict[int, list[int]] = {}
    for position in range(4 * sum(order.counts)):
        (sample,) = order(position)
        seen.setdefault(order._turn(position)[0], []).append(sample.example.image_id)
    for source, size in enumerate(sizes):
        for start in range(0, len(seen[source]) - size + 1, size):
            assert sorted(seen[source][start : start + size]) == list(range(size))


def test_sources_are_mixed_and_epochs_differ(squares):
    order = mixture(squares, (20, 20), (1, 1))
    found = turns(order, 2)
    assert found[:40] != found[40:]
    assert found[:20].count(0) not in (0, 20)


def test_a_replaced_image_comes_from_the_same_source(squares):
    order = mixture(squares, (3, 5), (1, 1), images=8)
    for slot in range(8):
        source = order._turn(slot)[0]
        again = {order.image_samples(0, slot, attempt)[0].example.image_id for attempt in range(1, 40)}
        assert again == set(range(len(order.components[source].image_ids)))


class Fake:
    """A method whose samples are their own names."""

    def prepare(self, example, task, rng) -> TrainingSample:
        length = 2 + int(rng.integers(30))
        return TrainingSample([0] * length, [0] * length)

    def collate(self, samples, pack=False):
        return {"lengths": [len(sample.ids) for sample in samples]}


@settings(max_examples=30, deadline=None)
@given(amounts, st.integers(0, 6), st.sampled_from([1, 2, 4]), st.integers(0, 3))
def test_a_resumed_run_on_other_processes_sees_the_rest_and_nothing_else(squares, drawn, start, size, seed):
    order, other = (
        mixture(squares, *zip(*drawn, strict=True), images=8, seed=seed, expressions_per_image=2) for _ in range(2)
    )
    stage = StageConfig(
        method="m", stage="s", steps=7, images_per_step=8, expressions_per_image=2, micro_batch_images=2, seed=seed
    )
    whole = [micro.names for micro in stream(MicroBatches(Fake(), order, stage, 2), DistributedContext(0, 1), 0, 0)]
    parts = MicroBatches(Fake(), other, stage, 2)
    ranks = [[micro.names for micro in stream(parts, DistributedContext(rank, size), start, 0)] for rank in range(size)]
    assert [names for row in zip(*ranks, strict=True) for names in row] == whole[4 * start :]


def test_what_fixes_a_mixture_is_told(squares):
    one = mixture(squares, (3, 5), (1, 2)).identity()
    assert one["images"] == {"s0": 3, "s1": 5}
    assert one["images per epoch"] == [3, 10]
    assert one != mixture(squares, (3, 5), (1, 1)).identity()
    assert "images per epoch" not in mixture(squares, (3,), (1,)).identity()


def test_weights_for_all_or_none(squares):
    given = [MixtureComponent({"box": squares(2)}, {"box": 1.0}, weight=w, name=n) for w, n in ((1.0, "a"), (0.0, "b"))]
    with pytest.raises(UserError, match="Source a has a weight but b has none"):
        per_epoch(given)
    with pytest.raises(UserError, match="Source empty has no images"):
        per_epoch([MixtureComponent({"box": squares(0)}, {"box": 1.0}, name="empty")])


# ---- from a profile ---------------------------------------------------------------------------------------------

PROFILE = """
name: own
data:
  dataset: refcoco
  root: refer
  images: coco
  mixture:
    refcoco: {weight: 1}
    again: {dataset: refcoco+, root: plus, styles: [refcoco+], weight: 2, tasks: {segment: 1.0}}
    words: {dataset: captions, root: text, weight: 1}
    moji: {dataset: refmoji, root: moji, weight: 4}
stages:
  all: {method: himtok, stage: tune, steps: 1, tasks: {segment: 0.5, box: 0.25, caption: 0.25}}
  few: {method: himtok, stage: tune, steps: 1, tasks: {segment: 1.0}, mixture: {refcoco: 1, again: 0.25}}
"""


@pytest.fixture
def profile(tmp_path):
    def made(*changes: tuple[str, str], overrides=()):
        text = PROFILE
        for old, new in changes:
            assert old in text
            text = text.replace(old, new)
        (tmp_path / "own.yaml").write_text(text)
        return load_profile(tmp_path / "own.yaml", overrides)

    return made


def test_a_source_serves_what_its_dataset_can(profile):
    found = component_configs(profile(), profile().stages["all"])
    assert {name: source.tasks for name, source in found.items()} == {
        "refcoco": {"segment": 0.5, "box": 0.25}, "again": {"segment": 1.0}, "words": {"caption": 0.25},
        "moji": {"segment": 0.5, "box": 0.25, "caption": 0.25},
    }  # fmt: skip
    assert {name: (source.root, source.images) for name, source in found.items()} == {
        "refcoco": ("refer", "coco"), "again": ("plus", ""), "words": ("text", ""), "moji": ("moji", "")
    }  # fmt: skip


def test_a_stage_chooses_sources_and_scales_them(profile):
    found = component_configs(profile(), profile().stages["few"])
    assert {name: source.weight for name, source in found.items()} == {"refcoco": 1, "again": 0.5}
    less = profile(overrides=["stages.few.mixture.refcoco=0"])
    assert list(component_configs(less, less.stages["few"])) == ["again"]


def test_shares_of_tasks_follow_the_weights(profile):
    given = profile()
    assert task_shares(given, given.stages["all"]) == pytest.approx(
        {"segment": (2 / 3 + 2 + 2) / 8, "box": (1 / 3 + 1) / 8, "caption": (1 + 1) / 8}
    )
    repeats = profile(("weight: 1", "repeat: 1"), ("weight: 2", "repeat: 2"), ("weight: 4", "repeat: 4"))
    assert task_shares(repeats, repeats.stages["all"]) == {"segment": 0.5, "box": 0.25, "caption": 0.25}


def test_the_sources_are_opened_where_they_lie(profile, squares, monkeypatch):
    opened = []
    monkeypatch.setattr(
        mixtures, "open_dataset", lambda *given, **options: opened.append((*given, options)) or squares(3)
    )
    found = open_mixture(profile(overrides=["data.train_scenes=7"]), profile().stages["all"])
    assert [(source.name, source.weight, set(source.datasets)) for source in found] == [
        ("refcoco", 1, {"segment", "box"}), ("again", 2, {"segment"}), ("words", 1, {"caption"}),
        ("moji", 4, {"segment", "box", "caption"}),
    ]  # fmt: skip
    assert [(name, str(root), split) for name, root, split, _ in opened] == [
        ("refcoco", "refer", "train"), ("refcoco+", "plus", "train"), ("captions", "text", "train"),
        ("refmoji", "moji/train-7", "train"), ("refmoji", "moji/train-7", "train"),
    ]  # fmt: skip
    usual = {"semantic": False, "with_images": True}
    assert opened[0][3] == usual | {"images": "coco", "split_by": "", "styles": []}
    assert opened[1][3] == usual | {"images": "", "split_by": "", "styles": ["refcoco+"]}
    assert Sampler(found, 2, 1, 0).counts == [2, 2, 2, 6]  # twelve images as 1 : 2 : 1 : 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("mixture: {refcoco: 1,", "mixture: {refcocog: 1,"), "few.mixture names 'refcocog', but data.mixture holds"),
        (("again: 0.25", "again: -1"), "stages.few.mixture.again is -1.0, but must be a number of at least 0"),
        (("refcoco: {weight: 1}", "refcoco: {repeat: 0}"), "data.mixture.refcoco has no positive repeat or weight"),
        (("refcoco: {weight: 1}", "refcoco: {times: 2}"), "times"),
    ],
)  # fmt: skip
def test_a_wrong_mixture_is_one_sentence(profile, change, message):
    with pytest.raises(UserError, match=message) as caught:
        profile(change)
    assert "\n" not in str(caught.value) and "own.yaml" in str(caught.value)


def test_a_source_without_a_task_or_a_card_is_named(profile):
    given = profile(("mixture: {refcoco: 1, again: 0.25}", "mixture: {words: 1}"))
    with pytest.raises(UserError, match="Source words of the mixture serves none of the stage's tasks .segment."):
        component_configs(given, given.stages["few"])
    given = profile(("dataset: refcoco+", "dataset: refcoko"), ("tasks: {segment: 1.0}}\n", "tasks: {}}\n"))
    with pytest.raises(UserError, match="There is no dataset 'refcoko' .did you mean 'refcoco'"):
        open_mixture(given, given.stages["all"])


@pytest.mark.parametrize(
    ("dataset", "served"),
    [
        ("refmoji", {"segment", "box", "box_to_mask", "caption", "choose"}),
        ("refcoco", {"segment", "box", "box_to_mask", "choose"}),
        ("refcoco-rec", {"box"}),
        ("sa-1b", {"box_to_mask"}),
        ("captions", {"caption"}),
        ("conversations", {"conversation"}),
        ("mask-perception", set()),
    ],
)
def test_each_kind_of_dataset_serves_its_tasks(dataset, served):
    tasks = ("segment", "box", "box_to_mask", "caption", "choose", "conversation")
    assert {task for task in tasks if serves(dataset, task)} == served


SEVERAL = """
name: several
data:
  dataset: reasonseg
  root: DATA
  mixture:
    reasonseg: {weight: 3, tasks: {segment: 1.0}}
    sa-1b: {root: DATA/none, weight: 5, tasks: {box_to_mask: 1.0}}
    voc-20: {root: DATA/none, weight: 2, tasks: {segment: 1.0}}
stages:
  all: {method: himtok, stage: align, steps: 1, tasks: {segment: 1.0}}
  absent: {method: himtok, stage: align, steps: 1, tasks: {segment: 1.0}, mixture: {sa-1b: 1}}
"""


@pytest.fixture
def several(tmp_path):
    """several(override, ...) -> a profile of three sources, of which one is on the disk."""
    (tmp_path / "train").mkdir()
    Image.new("RGB", (9, 9)).save(tmp_path / "train/a.jpg")
    shape = {"label": "target", "points": [[1, 1], [6, 1], [6, 6]]}
    (tmp_path / "train/a.json").write_text(json.dumps({"text": ["it"], "is_sentence": False, "shapes": [shape]}))
    (tmp_path / "several.yaml").write_text(SEVERAL.replace("DATA", str(tmp_path)))
    return lambda *overrides: load_profile(tmp_path / "several.yaml", overrides)


def test_sources_that_are_not_there_are_listed_or_left_out(several):
    given = several()
    with pytest.raises(UserError, match="2 of 3 sources of the mixture are not there") as caught:
        open_mixture(given, given.stages["all"])
    told = str(caught.value)
    assert "sa-1b (weight 5: " in told and "none: has no JSON file" in told and "voc-20 (weight 2: " in told
    assert told.endswith("get them, or train without them with data.skip_missing=true.") and "reasonseg" not in told
    less = several("data.skip_missing=true")
    (left,) = open_mixture(less, less.stages["all"])
    assert (left.name, left.weight, left.image_ids) == ("reasonseg", 3, ["a"])
    with pytest.raises(UserError, match="1 of 1 sources of the mixture are not there: sa-1b"):
        open_mixture(less, less.stages["absent"])


@pytest.mark.parametrize("name", ["himtok", "argenseg"])
def test_the_published_mixtures_name_all_their_sources(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = load_profile(name)
    for stage in given.stages.values():
        with pytest.raises(UserError, match="sources of the mixture are not there") as caught:
            open_mixture(given, stage)
        assert all(f"{source} (weight" in str(caught.value) for source in component_configs(given, stage))
