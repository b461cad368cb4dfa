"""Test where the embeddings of tasks that are learned along start, and that they are learned and not answered."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from networks import DECODER
from safetensors.torch import load_file, save_file

from hrm_offline.common.budget import Budget
from hrm_offline.data.companions import choose_companions
from hrm_offline.data.puzzles import SHARED_ROWS, PuzzleSet
from hrm_offline.model.artifact import load_artifact, save_artifact
from hrm_offline.model.network import build_network
from hrm_offline.predict.loop import predict_votes
from hrm_offline.presets import PRESETS
from hrm_offline.train.adapt import adapt
from hrm_offline.train.companions import CompanionPuzzles

SMALL = PRESETS["hrm-132k"]
RECIPES = {
    "decoder": (DECODER, dataclasses.replace(PRESETS["decoder-170k"].adapt, tokens_per_step=300, search_branches=0)),
    "in place": (SMALL.model, dataclasses.replace(SMALL.adapt, tokens_per_step=200)),
}


@pytest.fixture
def companions(make_task):
    return choose_companions([make_task(f"c{i}", seed=10 + i) for i in range(3)], [])


@pytest.fixture
def own(make_task):
    return (make_task("a", seed=1), make_task("b", seed=2))


@pytest.fixture(params=RECIPES)
def kind(request):
    return RECIPES[request.param]


def save(folder, model, names):
    """Save an artifact whose puzzles have these names, and return it with its whole table."""
    torch.manual_seed(0)
    weights = build_network(model, SHARED_ROWS + len(names)).state_dict()
    weights["puzzle_emb.weights"] = torch.randn_like(weights["puzzle_emb.weights"])
    save_artifact(folder, model, "factored", weights, ["shared"] * SHARED_ROWS + names, {})
    return load_artifact(folder), load_file(folder / "puzzles.safetensors")["puzzle_emb.weights"]


def started(artifact, companions, own, model, recipe):
    """Return the rows of the tasks to answer and of their companions as a network starts with them, and warnings."""
    said = []
    puzzles = PuzzleSet(own, recipe, model, 0)
    beside = CompanionPuzzles(companions, recipe, model, artifact, said.append)
    learned = beside.join(puzzles)
    network = artifact.build(learned.num_rows, torch.float32)
    beside.start_embeddings(network, learned, puzzles.num_rows)
    rows = network.puzzle_emb.weights.detach()
    return rows[SHARED_ROWS : puzzles.num_rows], rows[puzzles.num_rows :], said


def test_embeddings_start_from_those_that_the_artifact_keeps(tmp_path, companions, own, kind):
    artifact, table = save(tmp_path, kind[0], ["c2", "a", "other", "c0"])
    new, along, said = started(artifact, companions, own, *kind)
    mean = table[SHARED_ROWS:].mean(0)
    assert torch.allclose(new, mean.expand(2, -1))  # "a" is to be answered, so it starts as a new puzzle does
    assert torch.equal(along[[0, 2]], table[SHARED_ROWS + torch.tensor([3, 0])])
    assert torch.allclose(along[1], mean)
    assert not said


@pytest.mark.parametrize("fault", ["no files", "no list", "too few names", "cut off", "not finite"])
def test_embeddings_start_as_new_ones_where_the_artifact_keeps_none_that_can_be_used(tmp_path, companions, own, fault):
    artifact, table = save(tmp_path, DECODER, ["c0"])
    names, rows = tmp_path / "puzzles.json", tmp_path / "puzzles.safetensors"
    if fault == "no files":
        rows.unlink()
    elif fault == "no list":
        names.write_text('{"a": 1}')
    elif fault == "too few names":
        names.write_text(json.dumps(json.loads(names.read_text())[:-1]))
    elif fault == "cut off":
        rows.write_bytes(rows.read_bytes()[:-8])
    else:
        table[-1, 3] = float("nan")
        save_file({"puzzle_emb.weights": table}, rows)
    _, along, said = started(artifact, companions, own, *RECIPES["decoder"])
    assert torch.equal(along, along[:1].expand(3, -1))
    assert len(said) == (fault not in ("no files", "not finite"))
    assert all(str(tmp_path) in line and "start with new embeddings" in line for line in said)


def test_companions_are_learned_and_only_the_others_answered(companions, own, kind):
    model, recipe = kind
    puzzles = PuzzleSet(own, dataclasses.replace(recipe, visits=6), model, 0)
    beside = CompanionPuzzles(companions, puzzles.recipe, model, None, print)

    def learn(learned):
        torch.manual_seed(0)
        network = build_network(model, learned.num_rows)
        before = network.puzzle_emb.weights.detach().clone()
        report = adapt(network, learned, puzzles.recipe, Budget(1e9), 0, pretrained=False)
        moved = (network.puzzle_emb.weights.detach() != before).any(1)[SHARED_ROWS:]
        return report, moved, predict_votes(network, puzzles, puzzles.recipe)

    alone, _, votes = learn(puzzles)
    report, moved, votes_along = learn(beside.join(puzzles))
    assert report.planned_steps == pytest.approx(2 * alone.planned_steps, abs=1)
    assert report.steps == report.planned_steps
    assert moved.all() and len(moved) == 5
    assert votes_along.keys() == votes.keys()
    assert np.isfinite(report.loss)


def test_without_companions_that_are_left_the_tasks_are_learned_alone(own, kind):
    model, recipe = kind
    puzzles = PuzzleSet(own, recipe, model, 0)
    nothing = choose_companions(own, own)
    assert CompanionPuzzles(nothing, recipe, model, None, print).join(puzzles) is puzzles
