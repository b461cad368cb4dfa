"""Test how the finished runs of a tool are kept."""

import json

from tools.support.run_lines import RunLines


def test_a_torn_line_counts_as_missing_and_spoils_no_other(tmp_path):
    path = tmp_path / "runs.jsonl"
    path.write_text(json.dumps({"run": "a"}) + "\n[1]\n" + json.dumps({"run": "b"})[:-5])
    runs = RunLines(path)
    assert runs.lines == [{"run": "a"}]
    runs.add({"run": "c"})
    runs.add({"run": "d"})
    assert runs.lines == RunLines(path).lines == [{"run": "a"}, {"run": "c"}, {"run": "d"}]


def test_a_file_begins_with_its_first_line(tmp_path):
    runs = RunLines(tmp_path / "runs.jsonl")
    assert runs.lines == []
    assert not runs.path.exists()
    runs.add({"run": "a"})
    assert runs.path.read_text() == '{"run": "a"}\n'
