"""Test how well the probe at the start of a run foresees the time of prediction."""

import pytest
from decoders import make_decoder
from runs import options_of, solve_quietly

from hrm_offline.data.canvas import output_lengths
from hrm_offline.predict.plan import GPU_ROWS_PER_STEP, PredictionPlan
from hrm_offline.solve.probe import Probe
from hrm_offline.solve.schedule import Schedule

pytestmark = pytest.mark.usefixtures("real_probes")


class Device:
    """Takes the same time for each step of a batch, and a little more for each row.

    Once a trial has found that recordings are faster, a step takes a quarter of its time.
    """

    records = False

    def __init__(self, plan, per_step, per_row, gains=False):
        self.gains = gains
        self.plan, self.per_step, self.per_row, self.now = plan, per_step, per_row, 0.0

    def seconds(self, batch):
        steps = int(output_lengths(self.plan.puzzles.tests.rooms[batch.examples]).max())
        return steps * (self.per_step + self.per_row * len(batch) * batch.canvas[0])

    def rehearse(self, batch):
        self.now += self.seconds(batch)

    def try_graphs(self, batch):
        if self.gains:
            self.records, self.per_step = True, self.per_step / 4


@pytest.mark.parametrize(
    ("per_row", "budget", "tolerance"),
    [(1e-7, 600.0, 0.15), (1e-5, 600.0, 0.15), (1e-4, 600.0, 0.15), (1e-7, 1.0, 0.5), (1e-5, 1.0, 0.5)],
)
def test_a_gpu_that_launches_longer_than_it_computes_is_foreseen(make_task, per_row, budget, tolerance):
    """The small batches of few tasks take as long as a full one. In a short budget nothing can be fitted."""
    tasks = tuple(make_task(f"t{i}", [((3 + i, 3), (3 + i, 3))] * 2, seed=i) for i in range(6))
    _, puzzles, recipe = make_decoder(tasks, predict_tokens=30_000)
    plan = PredictionPlan(puzzles, recipe, GPU_ROWS_PER_STEP)
    device = Device(plan, 2e-3, per_row)
    per_cost = Probe(device, plan, budget, lambda: device.now, on_cpu=False, fits=True).measure()
    assert (plan.rows_per_step == GPU_ROWS_PER_STEP) == (budget == 1.0)
    batches = [batch for batches in plan.rounds for batch in batches]
    truth = sum(map(device.seconds, batches))
    assert per_cost * sum(map(plan.cost_of, batches)) == pytest.approx(truth, rel=tolerance)


def test_the_time_of_recorded_steps_is_foreseen(make_task):
    tasks = tuple(make_task(f"t{i}", [((3 + i, 3), (3 + i, 3))] * 2, seed=i) for i in range(6))
    _, puzzles, recipe = make_decoder(tasks, predict_tokens=30_000)
    plan = PredictionPlan(puzzles, recipe, GPU_ROWS_PER_STEP)
    device = Device(plan, 2e-3, 1e-7, gains=True)
    per_cost = Probe(device, plan, 3000.0, lambda: device.now, on_cpu=False, fits=True).measure()
    assert device.records
    batches = [batch for batches in plan.rounds for batch in batches]
    assert per_cost * sum(map(plan.cost_of, batches)) == pytest.approx(sum(map(device.seconds, batches)), rel=0.15)


def test_the_schedule_reckons_with_the_steps_that_the_first_worker_has_measured(challenges, tmp_path, monkeypatch):
    def measure(self):
        self.plan.rows_per_step = 77.0
        return 1e-6

    def of_tasks(*given):
        made.append(make(*given))
        return made[-1]

    made, make = [], Schedule.of_tasks
    monkeypatch.setattr(Probe, "measure", measure)
    monkeypatch.setattr(Schedule, "of_tasks", of_tasks)
    shorter = {"visits": 1, "vote_views": 1, "search_branches": 0}
    solve_quietly(options_of(challenges, tmp_path, workers=0, preset="decoder-170k", overrides=shorter))
    assert {group.plan.rows_per_step for group in made[-1].groups} == {77.0}
