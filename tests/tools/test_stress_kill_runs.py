"""Test which kills are drawn, and how their outcomes are judged."""

from dataclasses import replace

from tools.stress.kill_runs import Outcome, draw_kills, report


def test_kills_are_repeatable_and_of_every_sort():
    kills = draw_kills(160, seed=0)
    assert kills == draw_kills(160, seed=0) != draw_kills(160, seed=1)
    assert {(kill.workers, kill.victim) for kill in kills} == {(w, v) for w in (1, 2) for v in ("leader", "worker")}
    assert sum(kill.writing for kill in kills) == 20
    assert all(kill.victim == "leader" and not kill.starting for kill in kills if kill.writing)
    assert any(kill.starting for kill in kills)
    assert all(0 <= kill.share < 1 for kill in kills)


def test_one_bad_outcome_fails_the_report(capsys):
    good = [Outcome(kill, False, False, True, 0, True, True) for kill in draw_kills(8, seed=0)]
    assert report(good) == 0
    assert "leader, 1 workers" in capsys.readouterr().out
    for fault in ({"valid": False}, {"code": 1}, {"same": False}):
        assert report([*good, replace(good[0], **fault)]) == 1
