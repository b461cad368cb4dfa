"""Test the saved state of a training run."""

import json

import pytest
import torch
from networks import ARCHITECTURES, sequences
from pretraining import SETTINGS

from hrm_offline.cli import main
from hrm_offline.common.errors import InputError
from hrm_offline.common.lock import LOCK_FILE, FolderLock
from hrm_offline.config import Recipe
from hrm_offline.model.batching import fixed_batch
from hrm_offline.model.recursive import RecursiveModel
from hrm_offline.train.graphs import Snapshot
from hrm_offline.train.learner import Learner
from hrm_offline.train.relay import load_relay, save_relay
from hrm_offline.train.state import STATE_FILE, learner_tensors, load_state, save_state, saved_step


def test_another_runs_state_is_refused(unbroken, capsys):
    assert main(["pretrain", "--out", str(unbroken), *SETTINGS, "--lr", "0.1"]) == 2
    assert "lr" in capsys.readouterr().err


@pytest.mark.parametrize("content", [[], None, 3, {}, {"identity": {}}, {"identity": None, "step": 1}])
def test_a_damaged_pointer_is_one_line(tmp_path, content):
    assert saved_step(tmp_path, {}) == -1
    (tmp_path / STATE_FILE).write_text(json.dumps(content))
    with pytest.raises(InputError, match=f"{STATE_FILE}: is damaged"):
        saved_step(tmp_path, {})


def test_a_second_run_in_the_same_folder_is_refused(tmp_path, capsys):
    with FolderLock(tmp_path, pytest.fail):
        assert main(["pretrain", "--out", str(tmp_path), *SETTINGS]) == 2
        assert [path.name for path in tmp_path.iterdir()] == [LOCK_FILE]
    error = capsys.readouterr().err
    assert "another run is at work in this folder" in error and error.count("\n") == 1


def test_a_run_of_one_state_and_muon_goes_on_from_state_relay_and_snapshot(tmp_path):
    """Matrices have no second moment there, and z_L no tokens."""
    batch = fixed_batch(sequences(2, 4), (2, 2))

    def started() -> Learner:
        torch.manual_seed(0)
        recipe = Recipe(optimizer="muon", lr=0.02, warmup_steps=0, ema=0.5)
        return Learner(RecursiveModel(ARCHITECTURES["looped"], 1), recipe, total_steps=9, seed=0)

    learner = started()
    learner.learn(batch)
    assert {name for name in learner_tensors(learner) if name.startswith("adam/0/")} == {"adam/0/m", "adam/0/step"}
    save_state(tmp_path / "out", learner, {})
    (tmp_path / "relay").mkdir()
    save_relay(tmp_path / "relay", learner, {})
    snapshot = Snapshot(learner, batch)
    learner.learn(batch)
    unbroken = {name: value.clone() for name, value in learner_tensors(learner).items()}
    continued, carried = started(), started()
    load_state(tmp_path / "out", continued, {})
    assert load_relay(tmp_path / "relay", carried, {}) == carried.step == 1
    snapshot.restore()
    for other in (continued, learner):
        other.learn(batch)
        found = learner_tensors(other)
        assert found.keys() == unbroken.keys()
        assert all(torch.equal(found[name], value) for name, value in unbroken.items())
    assert all(carried.optimizer.state[param].keys() >= {"step", "m"} for param in carried.params)
    carried.learn(batch)
    assert all(bool(param.isfinite().all()) for param in carried.params)
