"""Figures: drawn when there is something to draw, and the same bytes each time."""

import json
from dataclasses import replace

import pytest

from bench.records import Record
from bench.report import figures
from methods.files import write_lines


def texts(figure):
    return {item.get_text() for item in figure.findobj(lambda artist: hasattr(artist, "get_text"))}


@pytest.mark.parametrize("draw", [figures.accuracy_over_latency, figures.reconstruction_bound])
def test_same_records_same_bytes(draw, records):
    first, second = (figures.files_of(draw(records), "figure") for _ in range(2))
    assert first == second
    assert first.keys() == {"figure.png", "figure.svg", "figure.pdf"}
    assert b"<dc:date>" not in first["figure.svg"]
    assert b"Matplotlib" not in first["figure.png"]
    assert b"/CreationDate" not in first["figure.pdf"] and b"atplotlib" not in first["figure.pdf"]


def test_nothing_to_draw_gives_no_figure(records):
    scores = [record for record in records if record.protocol == "per_expression"]
    assert figures.accuracy_over_latency(scores) is None
    assert figures.reconstruction_bound(scores) is None
    assert figures.training_curves({}) is None


def test_accuracy_names_methods_units_and_the_best_baseline(records):
    found = texts(figures.accuracy_over_latency(records))
    assert {"HiMTok", "ARGenSeg", "largest object (baseline)", "cIoU (%)", "RefMoji val"} <= found
    assert "latency per image (ms, median to p90)" in found
    assert "empty mask (baseline)" not in found


def test_accuracy_stands_over_the_time_on_its_own_dataset(records):
    """The second panel's points lie at twice the first's."""
    other = [replace(r, dataset="z", value=r.value * (2 if r.kind == "latency" else 1)) for r in records]
    for mixed in ([*records, *other], [*other, *records]):
        places = [
            sorted(container[0].get_xdata()[0] for container in axis.containers)
            for axis in figures.accuracy_over_latency(mixed).axes
        ]
        assert places == [[150.0, 210.4], [300.0, 420.8]]


def test_reconstruction_names_curves_and_ticks(records):
    found = texts(figures.reconstruction_bound(records))
    assert {"HiMTok", "ARGenSeg", "mask tokens", "Reconstruction bound, RefMoji val"} <= found
    figure = figures.reconstruction_bound(records)
    assert [tick for tick in figure.axes[0].get_xticks() if tick in (32, 680)] == [32, 680]


def test_ablated_lengths_and_mask_tokenizers_have_a_panel_each(records):
    def changed(variant, tokens, kind, metric, value):
        more = {"variant": variant, "tokens": tokens, "low": value, "high": value}
        return Record("himtok", metric, value, "refmoji", "val", kind, "per_expression" * (kind == "score"), **more)

    assert figures.ablation_lengths([]) is None
    answers = [changed({}, n, "score", "ciou", 0.1) for n in (1, 8, 32)]
    assert len(figures.ablation_lengths(answers).axes) == 1
    off = {"hierarchy": "off"}
    bounds = [changed(off, n, "reconstruction", "giou", 0.2) for n in (1, 8, 32)]
    found = texts(figures.ablation_lengths([*records, *answers, *bounds]))
    assert {"HiMTok", "HiMTok (hierarchy=off)", "Mask tokenizers trained in another way", "cIoU (%)"} <= found
    assert "ARGenSeg (hierarchy=off)" not in found
    assert "HiMTok (hierarchy=off)" not in texts(figures.reconstruction_bound([*records, *bounds]))


def test_a_legend_for_all_panels_tells_each_name_once(tmp_path):
    for name in ("a", "b"):
        write_lines(tmp_path / name / "train.jsonl", [{"step": 1, "samples": 8, "loss": 1.0}])
        write_lines(tmp_path / name / "validation.jsonl", [{"step": 1, "samples": 8, "giou": 0.5, "ciou": 0.4}])
    (legend,) = figures.training_curves({name: tmp_path / name for name in ("a", "b")}).legends
    assert [text.get_text() for text in legend.get_texts()] == ["giou", "ciou"]


@pytest.mark.parametrize("last, scale", [(0.5, "linear"), (0.1, "log")])
def test_a_loss_that_hardly_moves_stands_between_plain_ticks(tmp_path, last, scale):
    rows = [{"step": i, "samples": 8 * i, "loss": loss} for i, loss in ((1, 1.0), (2, last))]
    write_lines(tmp_path / "a" / "train.jsonl", rows)
    assert figures.training_curves({"a": tmp_path / "a"}).axes[0].get_yscale() == scale


def test_training_curves_smooth_and_survive_a_log_without_validation(tmp_path):
    rows = [{"step": i, "samples": 8 * i, "loss": 2 / i, "_gradient": 1.0, "lr": 1e-3} for i in range(1, 120)]
    write_lines(tmp_path / "a" / "train.jsonl", rows)
    write_lines(tmp_path / "b" / "train.jsonl", [row | {"text": 1.0, "mask": 1.0} for row in rows[:1]])
    write_lines(tmp_path / "b" / "validation.jsonl", [{"step": 1, "samples": 8, "giou": 0.5, "failures": 1}])
    write_lines(tmp_path / "begun" / "train.jsonl", [])
    assert figures.training_curves({"begun": tmp_path / "begun"}) is None
    figure = figures.training_curves({name: tmp_path / name for name in ("a", "b", "absent", "begun")})
    found = texts(figure)
    assert {"a", "b", "loss", "text", "mask", "giou", "samples seen"} <= found
    assert not {"_gradient", "lr", "failures", "absent", "begun"} & found
    curve = next(line for line in figure.axes[0].lines if line.get_label() == "loss")
    assert len(curve.get_xdata()) == 50
    assert curve.get_xdata()[-1] == 8 * 119
    assert curve.get_ydata()[0] == pytest.approx((2 + 1 + 2 / 3) / 3)
    figures.files_of(figure, "training")
    assert json.loads((tmp_path / "a" / "train.jsonl").read_text().splitlines()[0])["loss"] == 2
