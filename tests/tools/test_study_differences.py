"""Test the statistics of studies on samples whose answer is known."""

import numpy as np
import pytest

from tools.study.differences import MIN_SEEDS, Result, compare, verdict
from tools.study.studies import Finding


def result(name, outcomes):
    """Return a result with the given points by seed and task. The share of right cells is half of the points."""
    return Result(
        name,
        {
            seed: {"outcomes": {str(task): (value, value / 2) for task, value in enumerate(values)}}
            for seed, values in enumerate(outcomes)
        },
    )


def test_a_difference_is_paired_over_tasks_and_averaged_over_seeds():
    easy_and_hard = np.tile([1.0, 0.0], 20)
    one_more = easy_and_hard.copy()
    one_more[1] = 1.0
    found = compare(result("arm", [one_more, easy_and_hard]), result("base", [easy_and_hard] * 2))
    assert found.points[0] == pytest.approx(100 * 0.5 / 40)
    assert found.cells[0] == pytest.approx(found.points[0] / 2)
    # The tasks' own spread, 50 points, cancels; the one that differs by half is in about 63% of the resamplings.
    assert 0 == found.points[1] < found.points[2] < 5
    assert (found.seeds, found.parted) == (2, 1)


def test_test_losses_are_compared_where_both_arms_have_them():
    def with_losses(name, losses):
        runs = result(name, [[0.0, 1.0]]).runs
        return Result(name, {0: runs[0] | {"test losses": {str(task): loss for task, loss in enumerate(losses)}}})

    arm, base = with_losses("arm", [0.5, 1.5]), with_losses("base", [1.0, 1.5])
    assert compare(arm, base).test_loss == pytest.approx((-0.25, -0.5, 0.0))
    assert compare(arm, result("base", [[0.0, 1.0]])).test_loss is None  # an older run has none


def test_test_losses_tell_arms_apart_from_three_seeds_on():
    def runs(name, loss, seeds):
        outcomes = {str(task): (0.0, 0.0) for task in range(10)}
        losses = {str(task): loss + task for task in range(10)}
        return Result(name, {seed: {"outcomes": outcomes, "test losses": losses} for seed in range(seeds)})

    for seeds, side in ((2, 0), (3, 1)):
        found = compare(runs("arm", 0.4, seeds), runs("base", 0.5, seeds))
        assert (found.side, found.base_loss, found.sides["points"]) == (side, pytest.approx(5.0), 0)
    assert verdict(Finding("", "arm", "base", size=5), found) == "agree"
    assert verdict(Finding("", "arm", "base", margin=5), found) == "cannot tell"


def test_a_lower_test_loss_with_fewer_right_cells_tells_nothing_apart():
    def runs(name, loss, cells):
        outcomes = {str(task): (0.0, cells) for task in range(10)}
        losses = {str(task): loss for task in range(10)}
        return Result(name, {seed: {"outcomes": outcomes, "test losses": losses} for seed in range(MIN_SEEDS)})

    found = compare(runs("arm", 0.4, 0.7), runs("base", 0.5, 0.8))
    assert found.sides == {"points": 0, "cells": -1, "test loss": 1}
    assert found.side == 0
    assert verdict(Finding("", "arm", "base"), found) == "cannot tell"
    assert compare(runs("arm", 0.4, 0.8), runs("base", 0.5, 0.8)).side == 1


def test_only_seeds_that_both_arms_have_are_compared():
    arm, base = result("arm", [[0.0], [1.0], [1.0]]), result("base", [[0.0]])
    assert compare(arm, base).points == (0.0, 0.0, 0.0)
    assert compare(arm, Result("base", {})) is None


@pytest.mark.parametrize(
    ("gain", "margin", "size", "expected"),
    [
        (0.3, None, None, "agree"),
        (-0.3, None, None, "disagree"),
        (0.0, None, None, "cannot tell"),
        (0.0, 20, None, "agree"),
        (0.3, 20, None, "disagree"),
        (-0.3, 20, None, "disagree"),
        (0.0, 4, None, "cannot tell"),
        (0.3, None, 30, "agree"),
        (0.3, None, 50, "agree, but less than published"),
        (-0.3, None, 50, "disagree"),
        (0.0, None, 30, "cannot tell, but less than published"),
        (0.0, None, 4, "cannot tell"),
    ],
)
def test_a_verdict_needs_the_whole_interval(gain, margin, size, expected):
    rng = np.random.default_rng(0)
    base = np.full((3, 60), 0.5)
    noise = np.concatenate([np.full(30, 0.25), np.full(30, -0.25)])  # its mean's standard error: 0.032
    arm = base + gain + rng.permutation(noise)
    finding = Finding("", "arm", "base", margin, size)
    assert verdict(finding, compare(result("arm", arm), result("base", base))) == expected


def test_no_evidence_is_no_agreement():
    same, finding = [[0.0] * 30] * 3, Finding("", "arm", "base", 5)
    assert verdict(finding, compare(result("arm", same), result("base", same))) == "cannot tell"
    for parted, expected in ((5, "cannot tell"), (6, "agree")):  # all in one direction
        some = [[1.0] * parted + [0.0] * 24] * 3
        found = compare(result("arm", some), result("base", np.zeros_like(some)))
        assert verdict(Finding("", "arm", "base"), found) == expected
    better = [[1.0] * 30] * 2
    found = compare(result("arm", better), result("base", same))
    assert found.points == (100.0, 100.0, 100.0)
    assert verdict(Finding("", "arm", "base"), found) == "cannot tell"  # of two seeds
    assert verdict(finding, None) == "not run"
    open_question = Finding("", "arm", "base", published=False)
    assert verdict(open_question, found) == "open question"
