"""Test the artifact that comes with the package: what it is, and that it is used where it fits."""

import json
import zipfile
from pathlib import Path

import pytest

from hrm_offline.cli import main
from hrm_offline.common.settings import from_dict
from hrm_offline.config import PretrainConfig
from hrm_offline.data.leaks import find_leaks
from hrm_offline.data.sets import load_set, select_tasks
from hrm_offline.data.tasks import digest_of, to_challenges
from hrm_offline.model.artifact import bundled_artifact, load_artifact
from hrm_offline.presets import PRESETS, preset

BUNDLED = ["hrm-430k", "hrm-132k", "decoder-4m", "decoder-2m", "decoder-170k"]
FOLDER = bundled_artifact("decoder-170k")  # that a CPU adapts in a run of few visits


def origin_of(name: str) -> dict:
    return json.loads((bundled_artifact(name) / "config.json").read_text())["origin"]


def solve(challenges: Path, out: Path, *flags: str) -> dict:
    """Run the command on a CPU with one network, and return its report."""
    words = ["--challenges", str(challenges), "--out", str(out), "--budget", "2m", "--visits", "1", "--members", "1"]
    assert main(["solve", *words, "--device", "cpu", *flags]) == 0
    return json.loads((out / "report.json").read_text())


@pytest.mark.parametrize("name", BUNDLED)
def test_it_is_a_small_network_of_its_preset(name):
    folder = bundled_artifact(name)
    assert load_artifact(folder).config == preset(name).model
    assert not (folder / "puzzles.safetensors").exists()  # the public tasks' embeddings stay behind


def test_all_artifacts_are_small_together():
    folders = {name: bundled_artifact(name) for name in PRESETS}
    assert [name for name, folder in folders.items() if folder] == BUNDLED
    assert sum(path.stat().st_size for folder in folders.values() if folder for path in folder.iterdir()) < 8e6


@pytest.mark.parametrize("name", BUNDLED)
def test_it_says_how_it_came_about(name):
    origin = origin_of(name)
    assert len(origin["commit"]) == 40
    assert origin["command"].startswith(f"python -m hrm_offline pretrain --preset {name}")
    curve = [json.loads(line) for line in (bundled_artifact(name) / "metrics.jsonl").read_text().splitlines()]
    assert 0 <= origin["steps"] - curve[-1]["step"] < curve[1]["step"] - curve[0]["step"]
    assert curve[-1]["lm_loss"] < 0.5 * curve[0]["lm_loss"]


def test_it_was_pretrained_on_nothing_that_is_measured_on():
    """Ask this of the artifact whose data come with the packages; the other's are a file that is not ours."""
    settings = dict(origin_of("hrm-132k")["pretrained"])
    digest = settings.pop("tasks")
    learned = select_tasks(from_dict(PretrainConfig, settings, "origin")).tasks
    assert digest_of(learned) == digest
    for name in ("arc1-eval", "arc2-eval", "rehearsal"):
        assert not find_leaks(learned, load_set(name).tasks)


@pytest.mark.usefixtures("short_probes")
@pytest.mark.parametrize(
    ("flags", "used"),
    [
        ([], FOLDER),
        (["--artifact", "bundled"], FOLDER),
        (["--artifact", "none"], None),
        (["--preset", "hrm-13m", "--set", "vote_views=4", "colour_permutations=4"], None),
        (["--preset", "hrm-132k"], bundled_artifact("hrm-132k")),
        (["--preset", "decoder-2m"], bundled_artifact("decoder-2m")),
    ],
)
def test_it_is_adapted_by_default_where_there_is_one(make_task, tmp_path, write_json, flags, used):
    report = solve(write_json("c.json", to_challenges([make_task()])), tmp_path / "out", "--workers", "0", *flags)
    assert report["artifact"] == (str(used) if used else None)
    assert not report["failures"]


@pytest.mark.usefixtures("warm_workers")
def test_workers_share_the_first_ones_choice(make_task, tmp_path, write_json):
    tasks = [make_task(f"t{i}", seed=i) for i in range(4)]
    report = solve(write_json("c.json", to_challenges(tasks)), tmp_path / "out", "--workers", "2")
    assert (report["artifact"], report["workers"], report["failures"]) == (str(FOLDER), 2, [])


def test_it_travels_in_our_wheel(wheel):
    assert wheel.stat().st_size < 10e6
    names = zipfile.ZipFile(wheel).namelist()
    files = ("model.safetensors", "config.json")
    assert {f"hrm_offline/artifacts/{preset}/{file}" for preset in BUNDLED for file in files} <= set(names)
