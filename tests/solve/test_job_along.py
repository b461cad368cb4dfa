"""Test whole runs of `solve` that learn other tasks along: what they report, and runs that were cut off."""

import pytest
from runs import CutOff, check, inline, options_of

from hrm_offline.common.budget import Budget
from hrm_offline.common.errors import InputError
from hrm_offline.data.tasks import to_challenges
from hrm_offline.model.artifact import read_safetensors
from hrm_offline.solve import engine
from hrm_offline.solve.job import solve
from hrm_offline.solve.worker import Worker

KINDS = {"decoder": "decoder-170k", "in place": "hrm-132k"}
RECIPE = {"visits": 4, "tokens_per_step": 300, "vote_views": 1, "search_branches": 0}


@pytest.fixture
def public(make_task, write_json, challenges):
    """Write four public tasks, the last of which is among the challenges. Return the file."""
    tasks = to_challenges([make_task(f"p{i}", [((3 + i, 3), (3, 3))] * 4, seed=20 + i) for i in range(3)])
    tasks["p3"] = challenges[1]["t2"]
    return str(write_json("public.json", tasks))


def run(challenges, tmp_path, name, *along, kind="decoder", pool=None, said=None, **changes):
    """Run in this process. Return the answers, the report and the adapted networks, in order."""
    changes = {"groups": 2, "overrides": RECIPE, "keep_networks": True} | changes
    options = options_of(challenges, tmp_path, name, workers=0, preset=KINDS[kind], along=along or None, **changes)
    solve(options, Budget(300), (said if said is not None else []).append, pool=pool)
    networks = [read_safetensors(path) for path in sorted((options.out / "journal").glob("*.safetensors"))]
    return *check(options.out, challenges[1]), networks


def numbers(networks):
    return [{name: value.tolist() for name, value in network.items()} for network in networks]


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_was_cut_off_learns_and_answers_as_an_unbroken_one(challenges, public, tmp_path, kind):
    answers, report, networks = run(challenges, tmp_path, "unbroken", public, kind=kind)
    left_out = {"p3": "is among the tasks to answer, by its name or by a pair"}
    assert report["learned along"] == {"tasks": 3, "pairs": 12, "left out": left_out, "repeats": 0}
    pool = CutOff(lambda receive, send: Worker(receive, send, engine.Engine), 4)
    with pytest.raises(KeyboardInterrupt):
        run(challenges, tmp_path, "cut", public, kind=kind, pool=pool)
    again = run(challenges, tmp_path, "cut", public, kind=kind)
    assert again[0] == answers
    assert len(networks) == 2 and numbers(again[2]) == numbers(networks)


def test_an_adaptation_goes_on_from_its_saved_state(challenges, public, tmp_path):
    class Fails(engine.Engine):
        tries = 0

        def adapt(self, job):
            Fails.tries += 1
            for step in super().adapt(job):
                if step == 55 and Fails.tries == 1:
                    raise RuntimeError("late")
                yield step

    said = []
    changes = {"kind": "in place", "groups": 1, "overrides": RECIPE | {"visits": 40}, "save_every": 0.0}
    whole = run(challenges, tmp_path, "whole", public, **changes)
    broken = run(challenges, tmp_path, "broken", public, pool=inline(Fails), said=said, **changes)
    assert any("goes on at step 50" in line for line in said)
    assert numbers(broken[2]) == numbers(whole[2])


def test_half_of_the_steps_are_the_tasks_own_and_only_their_embeddings_are_saved(challenges, public, tmp_path):
    said = []
    _, along, networks = run(challenges, tmp_path, "out", public, said=said)
    assert any(line.startswith("learned along: 3 tasks with 12 pairs; left out: p3 (p3 is among") for line in said)
    _, alone, others = run(challenges, tmp_path, "out", said=said)
    assert any("is of another run" in line for line in said)
    assert "learned along" not in alone
    steps = [report["adapted"]["planned_steps"] for report in (alone, along)]
    assert steps[1] == pytest.approx(2 * steps[0], abs=2)
    for one, other in zip(networks, others, strict=True):
        assert {name: value.shape for name, value in one.items()} == {k: value.shape for k, value in other.items()}


def test_tasks_that_are_all_among_the_challenges_are_learned_no_more_than_asked(challenges, tmp_path):
    _, report, _ = run(challenges, tmp_path, "out", str(challenges[0]))
    assert report["learned along"]["tasks"] == 0 and len(report["learned along"]["left out"]) == 5
    assert not report["failures"] and report["adapted"]["steps"] > 0


@pytest.mark.parametrize(("content", "said"), [('{"a"', "bad.json"), ('{"a": {"train": []}}', "bad.json: task a: ")])
def test_a_set_that_cannot_be_read_is_an_error_that_names_it(challenges, tmp_path, write_json, content, said):
    with pytest.raises(InputError, match=said):
        run(challenges, tmp_path, "out", str(write_json("bad.json", content)))
    assert (tmp_path / "out" / "submission.json").exists()
