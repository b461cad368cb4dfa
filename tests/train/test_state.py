"""Test the saved state of a training run."""

import contextlib
import json
import re

import pytest
import torch
from networks import ARCHITECTURES, sequences
from pretraining import SETTINGS
from safetensors import SafetensorError

from hrm_offline.cli import main
from hrm_offline.common.errors import InputError
from hrm_offline.common.lock import LOCK_FILE, FolderLock
from hrm_offline.common.settings import identity_of
from hrm_offline.config import Recipe
from hrm_offline.model.batching import fixed_batch
from hrm_offline.model.recursive import RecursiveModel
from hrm_offline.train import state
from hrm_offline.train.distributed import World
from hrm_offline.train.graphs import Snapshot
from hrm_offline.train.learner import Learner
from hrm_offline.train.relay import load_relay, save_relay
from hrm_offline.train.state import (
    LEARNER_FILE,
    STATE_FILE,
    learner_tensors,
    load_state,
    require_same_run,
    save_state,
    saved_step,
)


def test_another_runs_state_is_refused(unbroken, capsys):
    assert main(["pretrain", "--out", str(unbroken), *SETTINGS, "--lr", "0.1"]) == 2
    assert "lr" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("saved", "now", "words"),
    [
        ({"dropout": 0.1}, {}, "was saved with dropout = 0.1, this run has the default;"),
        ({}, {"dropout": 0.1}, "was saved with dropout = the default, this run has 0.1;"),
        ({"lr": 1.0}, {"lr": 2.0}, "was saved with lr = 1.0, this run has 2.0;"),
    ],
)
def test_a_setting_that_only_one_of_two_runs_has_makes_another_run(saved, now, words):
    """Settings that came later are recorded only where they are not their default."""
    saved, now = (identity_of(Recipe(**settings)) for settings in (saved, now))
    with pytest.raises(InputError, match=re.escape(words)):
        require_same_run(saved, now, "state.json")


def test_a_state_of_an_earlier_version_is_the_same_run():
    """It lacks settings that came later, has others that count no longer, and lacks the artifact that it began with."""
    now = identity_of(Recipe()) | {"start": None}
    saved = {name: value for name, value in now.items() if name != "start"} | {"cuda_graphs": False, "log_every": 5}
    require_same_run(saved, now, "state.json")


def test_a_hostile_setting_is_told_on_one_short_line():
    with pytest.raises(InputError) as error:
        require_same_run({"a\n" * 999: ["b"] * 9999}, {}, "relay.json")
    assert len(str(error.value)) < 400 and "\n" not in str(error.value)


def test_a_step_that_is_saved_again_does_not_touch_the_file_of_its_state(tmp_path):
    """Whoever kills the process in between finds the state before, under the checksum that was saved."""
    learner = Learner(RecursiveModel(ARCHITECTURES["looped"], 1), Recipe(), total_steps=9, seed=0)
    learner.learn(fixed_batch(sequences(2, 4), (2, 2)))
    save_state(tmp_path, learner, {})
    folder = tmp_path / json.loads((tmp_path / STATE_FILE).read_text())["folder"]
    files = [folder / LEARNER_FILE, folder / "rank-0.safetensors"]
    before = [path.read_bytes() for path in files]
    with open(files[0], "rb") as learner_file, open(files[1], "rb") as carries_file:
        with torch.no_grad():
            learner.params[0].add_(1)
        learner.carries[0, 0].z_H.add_(1)
        save_state(tmp_path, learner, {})
        assert [learner_file.read(), carries_file.read()] == before
    assert sorted(path.name for path in folder.iterdir()) == sorted(path.name for path in files)
    assert all(path.read_bytes() != content for path, content in zip(files, before))
    load_state(tmp_path, learner, {})


@pytest.mark.parametrize(("before", "after"), [("float32", "bfloat16"), ("bfloat16", "float32")])
def test_a_state_goes_on_in_another_dtype(tmp_path, before, after):
    batch = fixed_batch(sequences(2, 4), (2, 2))

    def started(dtype):
        model = RecursiveModel(ARCHITECTURES["looped"], 1, getattr(torch, dtype))
        return Learner(model, Recipe(), total_steps=9, seed=0)

    first, second = started(before), started(after)
    first.learn(batch)
    save_state(tmp_path, first, {})
    load_state(tmp_path, second, {})
    second.learn(batch)
    assert second.step == 2
    assert second.carries[0, 0].z_H.dtype is getattr(torch, after)


def test_a_state_without_a_loss_scale_goes_on_in_float16(tmp_path):
    learner = Learner(RecursiveModel(ARCHITECTURES["looped"], 1), Recipe(), total_steps=9, seed=0)
    learner.learn(fixed_batch(sequences(2, 4), (2, 2)))
    save_state(tmp_path, learner, {})
    learner.scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    load_state(tmp_path, learner, {})
    assert learner.scaler.get_scale() == 4.0


def test_a_file_that_cannot_be_read_leaves_the_learner_as_it_was(tmp_path):
    learner = Learner(RecursiveModel(ARCHITECTURES["looped"], 1), Recipe(), total_steps=9, seed=0)
    learner.learn(fixed_batch(sequences(2, 4), (2, 2)))
    save_state(tmp_path, learner, {})
    next(tmp_path.glob("state-*/rank-0.safetensors")).write_bytes(b"damaged")
    other = Learner(RecursiveModel(ARCHITECTURES["looped"], 1), Recipe(), total_steps=9, seed=1)
    before = {name: value.clone() for name, value in learner_tensors(other).items()}
    with pytest.raises(InputError, match="rank-0"):
        load_state(tmp_path, other, {})
    assert other.step == 0 and not other.carries
    assert all(torch.equal(value, before[name]) for name, value in learner_tensors(other).items())


class _Two(World):
    """Two processes, the other of which says that it failed, or that it did not."""

    def __init__(self, other_failed):
        super().__init__(0, 2)
        object.__setattr__(self, "other_failed", other_failed)

    def sum_metrics(self, metrics):
        return {name: float(value) + self.other_failed for name, value in metrics.items()}


@pytest.mark.parametrize("other_failed", [False, True])
@pytest.mark.parametrize("failing", ["save_file", "write_json", "make_folder", None])
def test_processes_fail_to_save_together(tmp_path, monkeypatch, failing, other_failed):
    """A full disk is another error for each way to write."""
    kinds = {"save_file": SafetensorError, "write_json": OSError, "make_folder": InputError}
    learner = Learner(RecursiveModel(ARCHITECTURES["looped"], 1), Recipe(), 9, seed=0, world=_Two(other_failed))
    if failing:
        monkeypatch.setattr(state, failing, lambda *_: (_ for _ in ()).throw(kinds[failing]("no space left")))
    is_first = failing in ("save_file", "make_folder")
    expected = "no space left" if is_first or not other_failed else "another process"
    with pytest.raises(OSError, match=expected) if failing or other_failed else contextlib.nullcontext():
        save_state(tmp_path, learner, {})
    assert (tmp_path / STATE_FILE).exists() is (failing is None and not other_failed)


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
