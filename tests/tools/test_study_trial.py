"""Test single trials of a study."""

import argparse

import pytest

from hrm_offline.common.errors import InputError
from hrm_offline.common.files import write_json
from hrm_offline.data.leaks import find_leaks
from hrm_offline.data.sets import load_set
from hrm_offline.data.tasks import to_challenges
from tools.study.trial import (
    Trial,
    add_length,
    companions_of,
    configs_of,
    learn,
    predict,
    score_votes,
    tasks_of,
    visits_of,
)


def test_others_are_new_to_the_tasks_studied_and_only_these_are_predicted():
    tasks = tasks_of("small")
    others = companions_of({"others": 20}, tasks).tasks
    assert len(others) == 20
    assert not find_leaks(list(tasks), list(others))
    learned = learn(Trial({"others": 4}, 0, "hrm-132k", "", 3), tasks[:2])
    votes, _ = predict(learned)
    assert {task_id for task_id, _ in votes} == {task.id for task in tasks[:2]}
    assert learned.about()["examples"] > learn(Trial({}, 0, "hrm-132k", "", 3), tasks[:2]).about()["examples"]
    with pytest.raises(InputError, match="others is 4000"):
        companions_of({"others": 4000}, tasks)


def test_tasks_along_take_their_share_of_the_steps():
    tasks = tasks_of("small")[:4]

    def steps(**changes):
        return learn(Trial({"tokens_per_step": 300} | changes, 0, "hrm-132k", "", 3), tasks).about()["steps"]

    assert steps(along="synthetic-4-sides-5", along_share=0.75) == pytest.approx(4 * steps(), abs=4)


def test_tasks_along_come_from_a_set_or_some_ranks_of_it_without_those_studied():
    tasks = tasks_of("small")
    ranked = companions_of({"along": "arc1-train:10:30"}, tasks)
    assert len(ranked.tasks) + ranked.repeated + len(ranked.left_out) == 20
    assert {task.id for task in tasks_of("arc1-train:10:20")} <= ranked.left_out.keys()  # the 20 smallest are studied
    assert len(ranked.tasks) > 5
    whole = companions_of({"along": "arc1-train"}, tasks)
    assert len(whole.tasks) + len(whole.left_out) + whole.repeated == len(load_set("arc1-train").tasks)
    assert companions_of({}, tasks) is None
    with pytest.raises(InputError, match="along is 'rehearsal', which has no task that is not among those studied"):
        companions_of({"along": "rehearsal"}, tasks)


@pytest.mark.parametrize(
    "changes", [{"along": "arc1-train", "others": 4}, {"along": 5}, {"others": "many"}, {"others": -1}]
)
def test_what_is_learned_along_is_the_name_of_a_set_or_a_number(changes):
    with pytest.raises(InputError, match=r"along is .* and others is .*, expected"):
        companions_of(changes, ())


def test_alone_a_task_is_answered_the_same_whatever_is_beside_it():
    tasks = tasks_of("small")

    def ballots(chosen):
        votes, _ = predict(learn(Trial({"alone": True}, 0, "hrm-132k", "", 20), chosen))
        return {key: [(c.grid.tolist(), c.count) for c in pool.ranking()] for key, pool in votes.items()}

    together, single = ballots(tasks[:2]), ballots(tasks[:1])
    assert single.items() <= together.items()


def test_votes_need_no_labels_and_the_score_does():
    tasks = tasks_of("small")[:2]
    learned = learn(Trial({}, 0, "hrm-132k", "", 1), tuple(task.without_labels() for task in tasks))
    few, many = (predict(learned, {"vote_views": views}) for views in (1, 8))
    assert {pool.count for pool in few[0].values()} == {1}
    assert {pool.count for pool in many[0].values()} <= {2, 4, 8}  # symmetric tasks have fewer views
    assert many[1] > 3 * few[1]
    assert len(score_votes(many[0], tasks).tasks) == 2


def test_sets_are_joined_by_a_plus():
    joined = tasks_of("rehearsal:0:2+deep-4-sides-5:1:3")
    assert [task.id for task in joined[:2]] == [task.id for task in tasks_of("rehearsal:0:2")]
    assert [task.id for task in joined[2:]] == [task.id for task in tasks_of("deep-4-sides-5:1:3")]
    with pytest.raises(InputError, match="two tasks have the id"):
        tasks_of("rehearsal:0:2+rehearsal:1:3")
    for name in ("rehearsal:0:2+", "rehearsal:0:2+deep-4:9:9", "rehearsal:0:2+deep-4"):
        with pytest.raises(InputError, match="is none"):
            tasks_of(name)


def test_trials_may_begin_with_a_pretrained_network(artifact, tmp_path):
    tasks = tasks_of("arc1-eval:1:4")

    def trial(**changes):
        return Trial({"artifact": str(artifact)} | changes, 0, "hrm-132k", "arc1-eval:1:4", 1)

    losses = {start: learn(trial(start=start), tasks).about()["loss"] for start in ("mean", "zeros", "nearest")}
    assert len(set(losses.values())) == 3
    assert learn(trial(visits=0), tasks).about()["steps"] == 0
    for wrong, word in (
        (trial(artifact="nowhere"), "nowhere"),
        (trial(start="best"), "arm: start is 'best'"),
        (trial(H_layers=2), "H_layers"),
    ):
        with pytest.raises(InputError, match=word):
            configs_of(wrong, "arm")
    unlabelled = tmp_path / "challenges.json"
    write_json(unlabelled, to_challenges(tasks))
    for name in ("arc1-eval", "arc1-eval:9:9", f"{unlabelled}:0:2"):
        with pytest.raises(InputError, match=name):
            tasks_of(name)


def test_a_trial_of_so_many_core_seconds_learns_that_long_and_its_rate_falls_to_the_end():
    tasks = tasks_of("arc1-eval:1:4")
    learned = learn(Trial({}, 0, "hrm-132k", "arc1-eval:1:4", 10**6, core_seconds=0.7), tasks)
    assert 0.5 < learned.seconds < 2.5
    assert 0 < learned.about()["steps"] < 10**5


@pytest.mark.parametrize(
    ("words", "visits"), [([], 300), (["--core-seconds", "9"], 10**6), (["--core-seconds", "9", "--visits", "5"], 5)]
)
def test_core_seconds_leave_the_visits_without_a_limit(words, visits):
    parser = argparse.ArgumentParser()
    add_length(parser)
    assert visits_of(parser.parse_args(words)) == visits
    with pytest.raises(InputError, match="expected more than 0"):
        visits_of(parser.parse_args(["--core-seconds", "0"]))
