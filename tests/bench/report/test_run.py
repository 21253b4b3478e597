"""`genseg report` keeps the logs of stages that ran here."""

import pytest

from bench.records import Record, write_records
from bench.report.run import write_report
from bench.train.folders import stage_folder
from methods.base import UserError


def test_a_report_keeps_what_stages_scored_unless_their_logs_are_shipped(small):
    for name in ("himtok", "argenseg"):
        (stage_folder(small, name) / "validation.jsonl").write_text('{"step": 1}\n')
    logs = small.results_dir / "logs"
    (logs / "argenseg").mkdir(parents=True)
    (logs / "argenseg" / "train.jsonl").write_text("")
    with pytest.raises(UserError, match="no records"):
        write_report(small)
    assert not (logs / "himtok").exists()
    write_records(
        small.results_dir / "records" / "x.jsonl", [Record("himtok", "ciou", 0.5, "refmoji", "val", "reconstruction")]
    )
    write_report(small)
    assert [str(path.relative_to(logs)) for path in sorted(logs.rglob("*.jsonl"))] == [
        "argenseg/train.jsonl", "himtok/validation.jsonl",
    ]  # fmt: skip
