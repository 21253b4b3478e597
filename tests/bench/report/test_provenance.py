"""Where the figures come from."""

from dataclasses import replace

from bench.records import Record
from bench.report.provenance import command_of, provenance

SCORE = Record("himtok", "ciou", 0.5, "refmoji", "val", "score", "per_expression", checkpoint="c1", data="d1",
               device="a CPU", precision="float32", seed=0, revision="0.1.0", versions={"torch": "2.13"},
               date="2026-01-02")  # fmt: skip


def test_each_command_has_a_row_with_data_weights_device_and_date():
    timed = replace(SCORE, kind="latency", metric="median_ms", device="a GPU", data="", date="2026-01-03")
    changed = replace(SCORE, variant={"hierarchy": "off"}, checkpoint="c2")
    (table,) = provenance([SCORE, timed, changed, replace(SCORE, method="baseline:full", checkpoint="")], "nano")
    rows = {row["command"]: row for row in table.rows}
    assert list(rows) == ["genseg eval profile=nano", "genseg ablation profile=nano", "genseg latency profile=nano"]
    first = rows["genseg eval profile=nano"]
    assert (first["data"], first["weights"], first["seeds"]) == ("RefMoji val d1", "HiMTok c1", "0")
    assert (first["device"], first["precision"], first["date"]) == ("a CPU", "float32", "2026-01-02")
    assert (first["revision"], first["versions"]) == ("0.1.0", "torch 2.13")
    assert rows["genseg latency profile=nano"]["device"] == "a GPU"
    assert rows["genseg ablation profile=nano"]["weights"] == ""
    assert provenance([], "nano") == []


def test_the_command_follows_from_what_was_measured():
    assert command_of(replace(SCORE, variant={"rule": "hard"})) == "genseg eval"
    assert command_of(replace(SCORE, tokens=16)) == "genseg ablation"
    assert command_of(replace(SCORE, kind="reconstruction", tokens=16)) == "genseg eval"
    assert command_of(replace(SCORE, kind="difference", against={"method": "argenseg"})) == "genseg eval"
    assert command_of(replace(SCORE, kind="difference", against={"tokens": 16})) == "genseg ablation"
    assert command_of(replace(SCORE, kind="understanding")) == "genseg import-lmms"
