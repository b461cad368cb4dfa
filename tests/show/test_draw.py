"""Test which pictures `show` draws."""

import builtins

from hrm_offline.cli import main
from hrm_offline.model.artifact import bundled_artifact
from hrm_offline.show.collect import pretraining_curves

PICTURES = {"predictions.png", "votes.png", "outer_steps.png", "training.png"}


def pictures_in(folder) -> set[str]:
    for path in folder.iterdir():
        assert path.read_bytes().startswith(b"\x89PNG")
        assert path.stat().st_size > 1000
    return {path.name for path in folder.iterdir()}


def test_all_pictures_of_a_run_are_drawn(run, tmp_path, capsys):
    out = tmp_path / "pictures"
    assert main(["show", str(run / "out"), "--solutions", str(run / "solutions.json"), "--out", str(out)]) == 0
    assert pictures_in(out) == PICTURES
    assert len(capsys.readouterr().out.splitlines()) == 4


def test_without_networks_the_rest_is_drawn(copy, capsys):
    for path in (copy / "journal").glob("*.safetensors"):
        path.unlink()
    assert main(["show", str(copy)]) == 0
    assert pictures_in(copy / "pictures") == PICTURES - {"outer_steps.png"}
    assert "not there any more" in capsys.readouterr().out


def test_a_pretraining_is_drawn(tmp_path, write_json, capsys):
    metrics = bundled_artifact("hrm-132k") / "metrics.jsonl"
    assert set(pretraining_curves(metrics)) == {"lm_loss", "accuracy"}
    assert main(["show", str(metrics), "--out", str(tmp_path / "pictures")]) == 0
    assert pictures_in(tmp_path / "pictures") == {"pretraining.png"}
    assert main(["show", str(write_json("metrics.jsonl", "{}"))]) == 2
    assert "metrics.jsonl" in capsys.readouterr().err


def test_without_matplotlib_one_line_says_so(run, tmp_path, monkeypatch, capsys):
    real = builtins.__import__

    def without_matplotlib(name, *rest, **more):
        if name.startswith("matplotlib"):
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without_matplotlib)
    assert main(["show", str(run / "out"), "--out", str(tmp_path)]) == 2
    assert "need matplotlib" in capsys.readouterr().err
