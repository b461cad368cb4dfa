"""Test the report of the studies."""

from small_studies import SCALE

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
    assert "| deep minus shallow |  |  | not run |" in overview
    assert "shallow minus the null baseline" in overview
    assert "the command" in overview
    assert "| deep | not run |" in report
    assert "Limits: the median interval" in report
    assert (tmp_path / "depths.png").stat().st_size > 1000
