"""Training curves: a panel for each question, one curve over all stages that went on from each other."""

import pytest

from bench.report.figures.training import training_curves
from bench.report.training_logs import Training
from methods.files import write_lines


def training(folder, name="HiMTok", mask_tokenizer=False, stages=1, **values):
    folders = tuple(folder / f"{name} {number}" for number in range(stages))
    for each in folders:
        rows = [{"step": i, "samples": 8 * i, "loss": 2 / i, "lr": 1e-3} | values for i in range(1, 120)]
        write_lines(each / "train.jsonl", rows)
        write_lines(each / "validation.jsonl", [{"step": 1, "samples": 952, "giou": 0.5, "ciou": 0.4}])
    return Training(name, name.lower(), mask_tokenizer, folders)


def test_each_question_has_its_panel(tmp_path):
    found = [training(tmp_path / "a", mask_tokenizer=True, reconstruction=1.0), training(tmp_path / "b", text=1.5),
             training(tmp_path / "c", "ARGenSeg", text=1.0, visual=0.5, bce=9.0)]  # fmt: skip
    figure = training_curves(found)
    assert [axis.get_title(loc="left") for axis in figure.axes] == ["Mask tokenizer", "Language model", "Answers"]
    assert [{text.get_text() for text in axis.texts} for axis in figure.axes] == [
        {"HiMTok"}, {"HiMTok", "ARGenSeg"}, {"HiMTok", "ARGenSeg"},
    ]  # fmt: skip
    for line in figure.axes[1].lines:  # only what the language model writes counts
        assert line.get_ydata() == pytest.approx([1.5] * 20)


def test_stages_follow_each_other(tmp_path):
    figure = training_curves([training(tmp_path, stages=2, text=1.0)])
    language, answers = figure.axes
    assert language.lines[0].get_xdata()[-1] == 2 * 952
    assert list(answers.lines[0].get_xdata()) == [952, 2 * 952]
    assert list(answers.lines[0].get_ydata()) == [40, 40]


def test_logs_that_lack_something_are_drawn_as_far_as_they_go(tmp_path):
    write_lines(tmp_path / "a" / "validation.jsonl", [{"step": 1, "samples": 8, "ciou": 0.4}])
    write_lines(tmp_path / "begun" / "train.jsonl", [])
    alone = Training("HiMTok", "himtok", False, (tmp_path / "a", tmp_path / "begun"))
    assert [axis.get_title(loc="left") for axis in training_curves([alone]).axes] == ["Answers"]
    assert training_curves([Training("HiMTok", "himtok", False, (tmp_path / "begun",))]) is None
    assert training_curves([]) is None
