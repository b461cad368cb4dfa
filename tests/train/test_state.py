"""Test the saved state of a training run."""

import json

import pytest
from pretraining import SETTINGS

from hrm_offline.cli import main
from hrm_offline.common.errors import InputError
from hrm_offline.common.lock import LOCK_FILE, FolderLock
from hrm_offline.train.state import STATE_FILE, saved_step


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
