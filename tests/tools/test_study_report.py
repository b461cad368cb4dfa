"""Test the report of the studies."""

from small_studies import SCALE

from tools.study.differences import MIN_SEEDS
from tools.study.report import write_reports
from tools.study.studies import Arm, Finding, Study
from tools.study.study import do, missing_jobs
from tools.study.trial import tasks_of


def test_a_report_says_what_is_missing(tmp_path):
    tasks = tasks_of(SCALE.tasks)
    study = Study(
        "depths",
        "How deep?",
        "depth",
        (Arm("shallow"), Arm("deep", {"halt_max_steps": 2})),
        (Finding("deep is better", "deep", "shallow"), Finding("shallow beats nothing", "shallow", None)),
    )
    jobs = missing_jobs([study], SCALE, tasks, {})
    found = {job.trial.seed: {("depths", "shallow"): do(job)[0]} for job in jobs if not job.trial.changes}
    write_reports([study], found, tasks, SCALE, tmp_path)
    overview, report = (tmp_path / "README.md").read_text(), (tmp_path / "depths.md").read_text()
    assert "| deep minus shallow |  |  |  |  | not run |" in overview
    assert "0 of 2 comparisons can be told apart" in overview
    assert "none: the null baseline has no test loss" in overview
    assert "shallow minus the null baseline" in overview
    assert "the command" in overview
    assert "| deep | not run |" in report
    assert "Limits: the median interval" in report
    assert (tmp_path / "depths.png").stat().st_size > 1000


def test_comparisons_are_judged_by_test_loss_and_where_there_is_none_by_points(tmp_path):
    tasks = tasks_of("rehearsal:0:8")

    def runs(points, loss=None, learn=None):
        """Return a run for each seed. A loss is a little different in each task."""
        about = {"learn": learn or {}, "commit": "c", "machine": "m", "seconds": 1, "vote seconds": 1, "loss": 0.1}
        about |= {"parameters": 1, "examples": 1, "vote steps": 1}
        about["outcomes"] = {task.id: [points, points] for task in tasks}
        if loss is not None:
            about["test losses"] = {task.id: loss * (1 + i / 50) for i, task in enumerate(tasks)}
        return [about | {"run": f"{points} {loss} {seed}", "seed": seed} for seed in range(MIN_SEEDS)]

    arms = {
        "base": runs(0.5, 0.4),
        "better": runs(0.5, 0.3),
        "few views": runs(0.4, 0.4),
        "other solver": runs(0.9),
        "surer": runs(0.6, 0.5),
    }
    findings = (
        Finding("better loses nothing", "better", "base", 5),
        Finding("better adds 13 points", "better", "base", size=13),
        Finding("base is better", "base", "better"),
        Finding("few views are worse", "base", "few views"),
        Finding("another solver wins", "other solver", "base"),
        Finding("is it so?", "surer", "base", published=False),
    )
    study = Study("kinds", "Which?", "kind", tuple(Arm(name) for name in arms), findings)
    found = {seed: {("kinds", name): arms[name][seed] for name in arms} for seed in range(MIN_SEEDS)}
    write_reports([study], found, tasks, SCALE, tmp_path)
    overview = (tmp_path / "README.md").read_text()
    assert "**5 of 6 comparisons can be told apart**, 3 by test loss and 2 by points" in overview
    assert "- agree, 3: better adds 13 points (kinds); few views are worse (kinds); another solver wins" in overview
    assert "- disagree, 1: base is better (kinds)" in overview
    rows = [line.split(" | ") for line in overview.splitlines() if line.startswith("| [kinds]")]
    assert [row[3].split(" (")[0] for row in rows] == [
        "-0.107",
        "-0.107",
        "+0.107",
        "none: they are the same networks and differ in voting alone",
        "none: other solver has no test loss",
        "+0.107",
    ]
    assert [row[6] for row in rows] == [
        "better, by test loss",
        "better, by test loss",
        "worse, by test loss",
        "better, by points",
        "better, by points",
        "no: worse by test loss, better by points and cells",
    ]
    # Points that are the same in every task are no evidence for a margin; the test loss has none.
    assert rows[0][7].startswith("cannot tell within 5 points")
