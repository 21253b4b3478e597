"""The ablation of the hierarchical mask loss: a point per form and seed, a curve per form."""

from bench.records import Record
from bench.report.figures.hierarchy import hierarchy_ablation


def records_of(form, ciou, seed=None):
    variant = {"hierarchy": form} | ({"seed": seed} if seed else {})
    more = {"dataset": "refmoji", "split": "val", "variant": variant}
    curve = [Record("himtok", "giou", n / 50, kind="reconstruction", tokens=n, **more) for n in (1, 32)]
    return [Record("himtok", "ciou", ciou, kind="score", protocol="per_expression", **more), *curve]


def test_forms_seeds_and_orders():
    figure = hierarchy_ablation([*records_of("off", 0.3), *records_of("paper", 0.4), *records_of("paper", 0.5, 1)])
    left, right = figure.axes
    assert [label.get_text() for label in left.get_yticklabels()] == ["paper", "off"]
    assert sorted(bar[0].get_xdata()[0] for bar in left.containers) == [30, 40, 50]
    assert {text.get_text() for text in right.texts} == {"paper", "off"}
    assert len(right.lines) == 2


def test_one_form_alone_is_no_ablation(records):
    assert hierarchy_ablation([]) is None
    assert hierarchy_ablation([*records, *records_of("paper", 0.4)]) is None
