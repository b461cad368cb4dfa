"""Test the saved state of a training run."""

from pretraining import SETTINGS

from hrm_offline.cli import main


def test_another_runs_state_is_refused(unbroken, capsys):
    assert main(["pretrain", "--out", str(unbroken), *SETTINGS, "--lr", "0.1"]) == 2
    assert "lr" in capsys.readouterr().err
