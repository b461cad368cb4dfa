"""Test the transfer report: which tasks and artifacts it refuses, and that it goes on where it was."""

import csv
import json
import sys

import numpy as np
import pytest

from hrm_offline.common.errors import InputError
from hrm_offline.common.settings import identity_of
from hrm_offline.config import PretrainConfig
from hrm_offline.data.sets import rehearsal_tasks, select_tasks
from hrm_offline.data.tasks import digest_of, load_tasks
from tools.study import transfer_report
from tools.study.transfer_report import require_unseen, steps_to_match
from tools.support.command_line import run_tool


def test_the_share_of_steps_after_which_a_loss_is_reached():
    their, fast, never = np.array([4.0, 3.0, 2.0, 1.0]), np.array([2.0, 1.0]), np.array([3.0, 2.0])
    assert steps_to_match([their, their], [fast, never]) == [0.5, None]


def test_tasks_that_were_pretrained_on_are_refused(artifact):
    learned = select_tasks(PretrainConfig(data=("arc1-train",), max_side=6, limit=6)).tasks
    require_unseen(list(rehearsal_tasks()), "a set", artifact)
    with pytest.raises(InputError, match=learned[2].id):
        require_unseen([load_tasks("arc1-eval").tasks[0], learned[2]], "a set", artifact)


def test_tasks_that_an_earlier_pretraining_saw_are_refused(artifact, tmp_path):
    """The pretraining went on from another artifact, on tasks of its own."""
    config = json.loads((artifact / "config.json").read_text())
    own = PretrainConfig(data=("synthetic-1",), held_out=())
    settings = identity_of(own) | {"tasks": digest_of(select_tasks(own).tasks), "start": "the digest of the other"}
    config["origin"] = {"pretrained": settings, "start": config["origin"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    learned = select_tasks(PretrainConfig(data=("arc1-train",), max_side=6, limit=6)).tasks
    require_unseen(list(rehearsal_tasks()), "a set", tmp_path)
    with pytest.raises(InputError, match=learned[2].id):
        require_unseen([learned[2]], "a set", tmp_path)


def test_a_set_that_was_held_out_needs_no_data(artifact, tmp_path):
    config = json.loads((artifact / "config.json").read_text())
    config["origin"]["pretrained"] |= {"data": ["gone.json"], "held_out": ["arc1-eval"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    tasks = [load_tasks("arc1-eval").tasks[0]]
    require_unseen(tasks, "arc1-eval", tmp_path)
    with pytest.raises(InputError, match=r"gone\.json.*held out need no such proof: arc1-eval"):
        require_unseen(tasks, "arc2-eval", tmp_path)


def test_a_file_named_like_a_held_out_set_is_no_proof(artifact, tmp_path, monkeypatch):
    config = json.loads((artifact / "config.json").read_text())
    config["origin"]["pretrained"] |= {"data": ["gone.json"], "held_out": ["arc1-eval", "mine.json"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "arc1-eval").mkdir()
    monkeypatch.chdir(tmp_path)
    for name in ("arc1-eval", "mine.json"):
        with pytest.raises(InputError, match="gone"):
            require_unseen([], name, tmp_path)


def test_an_artifact_of_unknown_origin_is_refused(artifact, tmp_path):
    config = json.loads((artifact / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"origin": {"imported from": "x"}}))
    with pytest.raises(InputError, match="pretrained on"):
        require_unseen([], "a set", tmp_path)
    config["origin"]["pretrained"]["tasks"] = "0"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="do not give the tasks"):
        require_unseen([], "a set", tmp_path)


@pytest.mark.slow
def test_a_report_is_written_and_goes_on_where_it_was(artifact, tmp_path, monkeypatch, capsys):
    words = [
        "--tasks",
        "3",
        "--budget",
        "2m",
        "--visits",
        "9",
        "--workers",
        "1",
        "--seeds",
        "5",
        "--preset",
        "hrm-132k",
    ]
    out = tmp_path / "out"
    monkeypatch.setattr(sys, "argv", ["transfer_report.py", *words, "--artifact", str(artifact), "--out", str(out)])
    assert run_tool(transfer_report.main) == 0
    first = capsys.readouterr().out
    assert {path.name for path in out.iterdir()} >= {"runs.csv", "tasks.csv", "report.md", "transfer.png"}
    runs = list(csv.DictReader((out / "runs.csv").open()))
    assert [(run["arm"], run["seed"]) for run in runs] == [("random weights", "5"), ("artifact", "5")]
    assert all(0 < float(run["test loss"]) < 10 for run in runs)
    assert "Test loss, artifact minus random weights: " in first
    assert len((out / "tasks.csv").read_text().splitlines()) == 1 + 3 * 3
    assert run_tool(transfer_report.main) == 0
    assert "seed 5\n" in first
    assert capsys.readouterr().out == first.partition("seed 5\n")[2].partition("seed 5\n")[2]
