"""Result files of lmms-eval in our records and tables."""

import copy
import json

import pytest

from bench.evaluate.lmms.results import find_results, keep, to_records
from bench.records import read_records
from bench.report.layout import markdown, to_csv
from bench.report.understanding import understanding
from methods.base import UserError

DATE = "20261130_215338"
RESULTS = {
    "results": {
        "pope": {
            "alias": "pope", "pope_accuracy,none": 0.75, "pope_accuracy_stderr,none": 0.1,
            "pope_accuracy_stderr_clt,none": 0.1, "pope_accuracy_stderr_clustered,none": "N/A",
            "exact_match,flexible": 1.0, "submission,none": None,
        },
        "mme": {"alias": "mme", "mme_perception_score,none": 1690.5, "mme_perception_score_stderr,none": "N/A"},
        "both": {"alias": "both", "pope_accuracy,none": 0.5},
    },
    "group_subtasks": {"both": ["pope", "mme"], "pope": [], "mme": []},
    "configs": {"pope": {"test_split": "test"}, "mme": {"validation_split": "val"}},
    "n-samples": {"pope": {"original": 9, "effective": 4}, "mme": {"original": 6, "effective": 6}},
    "config": {"model": "llava", "model_args": "pretrained=org/LLaVA-7B,conv=v1", "limit": 4},
    "lmms_eval_version": "unknown@unknown",
    "date": DATE,
}  # fmt: skip


@pytest.fixture
def written(tmp_path):
    """written(changes, date) -> the folder with a result file, some of its entries replaced; of `config` and `results`
    entries are added."""

    def write(date=DATE, **changes):
        data = copy.deepcopy(RESULTS) | {"date": date}
        for name, value in changes.items():
            merged = name in ("config", "results") and isinstance(value, dict)
            data[name] = data[name] | value if merged else value
        folder = tmp_path / "out"
        folder.mkdir(exist_ok=True)
        (folder / f"{date}_results.json").write_text(json.dumps(data))
        return folder

    return write


@pytest.fixture
def checkpoint(build, tmp_path):
    """The folder of a small model."""
    build("himtok").save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def figures(records):
    return {(r.dataset, r.metric): r for r in records}


def test_each_task_and_metric_is_a_record(written):
    found = figures(to_records(find_results(written()), ""))
    assert set(found) == {
        ("pope", "pope_accuracy"), ("pope", "exact_match/flexible"), ("mme", "mme_perception_score"),
        ("both", "pope_accuracy"),
    }  # fmt: skip
    pope = found["pope", "pope_accuracy"]
    assert (pope.value, pope.n, pope.split, pope.method) == (0.75, 4, "test", "LLaVA-7B")
    assert (pope.low, pope.high) == pytest.approx((0.554, 0.946))
    assert (pope.kind, pope.protocol, pope.date, pope.note) == ("understanding", "lmms-eval", "2026-11-30", "limit 4")
    mme = found["mme", "mme_perception_score"]
    assert (mme.value, mme.low, mme.split, mme.n) == (1690.5, None, "val", 6)
    assert found["both", "pope_accuracy"].n == 10


def test_empty_answers_are_counted_in_the_log_of_samples(written):
    folder = written()
    lines = [{"doc_id": i, "filtered_resps": answer} for i, answer in enumerate(("yes", "", [""], "no"))]
    (folder / f"{DATE}_samples_pope.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = figures(to_records(find_results(folder), ""))
    assert found["pope", "pope_accuracy"].failures == 2
    assert found["mme", "mme_perception_score"].failures == 0


def test_the_last_result_of_a_task_counts(written):
    written("20261201_000000", results={"pope": {"pope_accuracy,none": 0.25}, "mme": {}, "both": {}})
    found = figures(to_records(find_results(written()), ""))
    assert found["pope", "pope_accuracy"].value == 0.25
    assert ("mme", "mme_perception_score") not in found


def test_our_own_model_is_known_by_its_checkpoint(written, checkpoint):
    folder = written(config={"model": "genseg", "model_args": f"checkpoint={checkpoint},precision=bfloat16"})
    record = figures(to_records(find_results(folder), "tiny"))["pope", "pope_accuracy"]
    assert (record.method, record.protocol, record.precision) == ("himtok", "lmms-eval/0.7.3", "bfloat16")
    assert (record.backbone, len(record.checkpoint)) == ("tiny", 16)


def test_two_models_of_one_name_are_not_mixed(written, checkpoint):
    written(config={"model": "genseg", "model_args": f"checkpoint={checkpoint}"})
    other = f"checkpoint={checkpoint},precision=bfloat16"
    folder = written("20261201_000000", config={"model": "genseg", "model_args": other})
    with pytest.raises(UserError, match="several models called himtok"):
        to_records(find_results(folder), "")


def test_records_of_other_tasks_stay_and_those_of_other_weights_go(written, tmp_path):
    path = tmp_path / "records" / "lmms_eval.jsonl"
    records = to_records(find_results(written()), "")
    keep(path, [r for r in records if r.dataset == "mme"])
    keep(path, [r for r in records if r.dataset == "pope"])
    assert {r.dataset for r in read_records(path)} == {"mme", "pope"}
    (path.parent / "old.jsonl").write_text(path.read_text().replace('"LLaVA-7B"', '"LLaVA-7B","checkpoint":"other"'))
    (path.parent / "old.jsonl").replace(path)
    keep(path, [r for r in records if r.dataset == "pope"])
    assert {r.dataset for r in read_records(path)} == {"pope"}


def test_the_table_shows_each_figure_on_its_own_scale(written):
    folder = written(results={"refcoco_grounding_testA": {"refcoco_grounding_ACC@0.5,none": 0.9}})
    (table,) = understanding(to_records(find_results(folder), ""))
    shown = markdown(table)
    assert "| pope | test | pope_accuracy | LLaVA-7B | 0.75 ± 0.2 | 0 | 4 | limit 4 |" in shown
    assert "| 1690 |" in shown.replace("1690.5", "1690")
    assert "keeps whichever is nearest to the ground truth" in shown
    assert "pope,test,pope_accuracy,LLaVA-7B,0.75 ± 0.2,0.75,0.554,0.946,0,4" in to_csv(table)
    assert understanding([]) == []


# ---- the command ------------------------------------------------------------------------------------------------


def test_results_of_one_checkpoint_get_a_folder_of_their_own(genseg, written, checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = written(config={"model": "genseg", "model_args": f"checkpoint={checkpoint}"})
    done = genseg("import-lmms", folder)
    assert done.code == 0, done.err
    assert "Image understanding, lmms-eval/0.7.3" in done.out and "himtok" in done.out
    (path,) = tmp_path.glob("results/himtok-*/records/lmms_eval.jsonl")
    assert len(read_records(path)) == 4
    checkpoint.rename(tmp_path / "elsewhere")
    assert "say with checkpoint= where it is" in genseg("import-lmms", folder, "profile=smoke").complaint
    assert genseg("import-lmms", folder, "profile=smoke", "checkpoint=elsewhere").code == 0
    before = path.read_bytes()
    assert genseg("import-lmms", folder, "checkpoint=elsewhere").code == 0
    assert path.read_bytes() == before


def test_a_report_shows_what_was_imported(genseg, written, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert genseg("import-lmms", written(), "profile=smoke", "results=here").code == 0
    assert genseg("report", "profile=smoke", "results=here").code == 0
    assert "LLaVA-7B" in (tmp_path / "here" / "tables" / "understanding.md").read_text()
    assert "Image understanding" in (tmp_path / "here" / "index.html").read_text()


BROKEN = {
    "no results": {"results": []}, "no date": {"date": 5}, "no model": {"config": {"model": None}},
    "limit": {"config": {"limit": "all"}}, "counts": {"n-samples": {"pope": 4}}, "groups": {"group_subtasks": [1]},
    "configs": {"configs": {"pope": "x"}},
}  # fmt: skip


@pytest.mark.parametrize("changes", BROKEN.values(), ids=BROKEN)
def test_other_files_are_refused_in_one_sentence(changes, genseg, written):
    done = genseg("import-lmms", written(**changes), "profile=smoke")
    assert done.code == 2
    assert "nothing that lmms-eval writes; give an --output_path" in done.complaint


def test_a_folder_without_results_is_refused(genseg, tmp_path, written):
    assert "no files *_results.json in it" in genseg("import-lmms", tmp_path).complaint
    assert "no files *_results.json in it" in genseg("import-lmms", tmp_path / "nowhere").complaint
    assert "name a profile with profile=" in genseg("import-lmms", written()).complaint
    (tmp_path / "out" / "x_results.json").write_text("[1]")
    assert "x_results.json" in genseg("import-lmms", tmp_path / "out", "profile=smoke").complaint


def test_a_file_of_somebody_else_stays(written, tmp_path):
    path = tmp_path / "lmms_eval.jsonl"
    path.write_text('{"mine": 1}\n')
    with pytest.raises(UserError):
        keep(path, to_records(find_results(written()), ""))
    assert path.read_text() == '{"mine": 1}\n'
