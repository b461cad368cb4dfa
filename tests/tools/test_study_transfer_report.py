"""The transfer report and the statistics of studies."""

import json
import subprocess
import sys

import numpy as np
import pytest
from places import REPOSITORY

from hrm_offline.cli import main
from hrm_offline.common.errors import InputError
from hrm_offline.common.files import write_json
from hrm_offline.config import PretrainConfig
from hrm_offline.data.sets import rehearsal_tasks, select_tasks
from hrm_offline.data.tasks import load_tasks, to_challenges
from tools.study.transfer_report import require_unseen, steps_to_match
from tools.study.trial import Trial, configs_of, learn, tasks_of
from tools.support.intervals import bootstrap, wilson


@pytest.mark.parametrize(("successes", "trials"), [(0, 10), (5, 10), (41, 100), (10, 10), (1, 1)])
def test_wilsons_interval_ends_where_the_sample_is_1_96_standard_errors_off(successes, trials):
    share, ends = successes / trials, wilson(successes, trials)
    for p in ends:
        assert (share - p) ** 2 == pytest.approx(1.959964**2 * p * (1 - p) / trials, abs=1e-6)
    assert ends[0] - 1e-12 <= share <= ends[1] + 1e-12
    assert ends[0] < ends[1]


def test_wilsons_interval_of_nothing_is_everything():
    assert wilson(0, 0) == (0.0, 1.0)


def test_the_bootstrap_interval_is_the_normals_for_a_large_sample():
    values = np.random.default_rng(3).normal(0.5, 2.0, 400)
    error = 1.96 * values.std() / 20
    assert bootstrap(values) == pytest.approx((values.mean() - error, values.mean() + error), abs=0.03)
    assert bootstrap(np.ones(5)) == (1.0, 1.0)


def test_the_share_of_steps_after_which_a_loss_is_reached():
    their, fast, never = np.array([4.0, 3.0, 2.0, 1.0]), np.array([2.0, 1.0]), np.array([3.0, 2.0])
    assert steps_to_match([their, their], [fast, never]) == [0.5, None]


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    """Barely pretrained on some small real tasks."""
    out = tmp_path_factory.mktemp("artifact")
    assert (
        main(
            [
                "pretrain",
                "--preset",
                "hrm-132k",
                "--data",
                "arc1-train",
                "--max-side",
                "6",
                "--limit",
                "6",
                "--tokens-per-step",
                "200",
                "--steps",
                "3",
                "--threads",
                "1",
                "--out",
                str(out),
            ]
        )
        == 0
    )
    return out


def test_tasks_that_were_pretrained_on_are_refused(artifact):
    learned = select_tasks(PretrainConfig(data=("arc1-train",), max_side=6, limit=6)).tasks
    require_unseen(list(rehearsal_tasks()), artifact)
    with pytest.raises(InputError, match=learned[2].id):
        require_unseen([load_tasks("arc1-eval").tasks[0], learned[2]], artifact)


def test_an_artifact_of_unknown_origin_is_refused(artifact, tmp_path):
    config = json.loads((artifact / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"origin": {"imported from": "x"}}))
    with pytest.raises(InputError, match="pretrained on"):
        require_unseen([], tmp_path)
    config["origin"]["pretrained"]["tasks"] = "0"
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match="do not give the tasks"):
        require_unseen([], tmp_path)


@pytest.mark.slow
def test_a_report_is_written_and_goes_on_where_it_was(artifact, tmp_path):
    program = [sys.executable, str(REPOSITORY / "tools" / "study" / "transfer_report.py")]
    command = [
        *program,
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
        "--artifact",
        str(artifact),
        "--out",
        str(tmp_path / "out"),
    ]
    first = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert first.returncode == 0, first.stderr
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written >= {"runs.csv", "tasks.csv", "report.md", "transfer.png"}
    runs = (tmp_path / "out" / "runs.csv").read_text().splitlines()
    assert [line.split(",")[:2] for line in runs[1:]] == [["random weights", "5"], ["artifact", "5"]]
    assert len((tmp_path / "out" / "tasks.csv").read_text().splitlines()) == 1 + 3 * 3
    again = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert "seed 5\n" in first.stdout
    assert again.stdout == first.stdout.partition("seed 5\n")[2].partition("seed 5\n")[2]


def test_trials_may_begin_with_a_pretrained_network(artifact, tmp_path):
    tasks = tasks_of("arc1-eval:1:4")

    def trial(**changes):
        return Trial({"artifact": str(artifact)} | changes, 0, "hrm-132k", "arc1-eval:1:4", 1)

    losses = {start: learn(trial(start=start), tasks).about()["loss"] for start in ("mean", "zeros", "nearest")}
    assert len(set(losses.values())) == 3
    assert learn(trial(visits=0), tasks).about()["steps"] == 0
    for wrong, word in ((trial(artifact="nowhere"), "nowhere"), (trial(start="best"), "arm: start is 'best'")):
        with pytest.raises(InputError, match=word):
            configs_of(wrong, "arm")
    unlabelled = tmp_path / "challenges.json"
    write_json(unlabelled, to_challenges(tasks))
    for name in ("arc1-eval", "arc1-eval:9:9", f"{unlabelled}:0:2"):
        with pytest.raises(InputError, match=name):
            tasks_of(name)
