"""Budget, configuration, device choice, atomic files, finding files on the platform."""

import json

import pytest
import torch

from hrm_offline.common.budget import Budget, Pace, parse_duration
from hrm_offline.common.errors import InputError
from hrm_offline.common.files import write_json
from hrm_offline.common.settings import from_dict
from hrm_offline.config import AdaptConfig, ModelConfig, PretrainConfig, Recipe
from hrm_offline.model.device import choose_runtime, dtype_for_capability
from hrm_offline.solve.kaggle import CHALLENGES, find_artifact, find_file


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("11h30m", 41400), ("3m", 180), ("90s", 90), ("90", 90), ("1.5h", 5400), ("1h1m1s", 3661), ("0", 0)],
)
def test_durations(text, seconds):
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "3 m", "-3m", "m", "3x", "3m2h"])
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(InputError):
        parse_duration(text)


def test_budget_counts_from_the_start_of_the_process():
    now = [100.0]
    budget = Budget(60, started=90.0, clock=lambda: now[0])
    assert (budget.elapsed(), budget.remaining()) == (10, 50)
    assert budget.plannable() == pytest.approx(50 - 0.02 * 60)  # less what writing needs
    now[0] = 200.0
    assert (budget.remaining(), budget.plannable()) == (-50, 0)


def test_a_clock_that_jumps_back_makes_no_time():
    now = [100.0]
    budget = Budget(60, clock=lambda: now[0])
    for time, elapsed in ((130.0, 30), (10.0, 30), (15.0, 35), (45.0, 65)):
        now[0] = time
        assert budget.elapsed() == elapsed


def test_pace_is_of_the_last_steps_without_the_first_ones():
    pace, now = Pace(window=10), 0.0
    for seconds in [50.0] * 5 + [2.0] * 30:
        assert pace.seconds() in (None, 2.0)
        now += seconds
        pace.tick(now)
    assert pace.slowdown() == 1.0
    for _ in range(10):
        now += 6.0
        pace.tick(now)
    assert (pace.seconds(), pace.slowdown()) == (6.0, 3.0)


def test_settings_from_json():
    assert from_dict(PretrainConfig, {"data": ["a", "b"], "lr": 1}, "x").data == ("a", "b")
    assert from_dict(Recipe, {"lr": 1}, "x").lr == 1.0
    for values, word in (
        ({"learning": 1}, "learning"),
        ({"lr": "1"}, "lr"),
        ({"lr": True}, "lr"),
        ({"lr": -1}, "lr"),
        ({"rotations": 1}, "rotations"),
        ({"warmup_steps": 1.5}, "warmup_steps"),
        (3, "object"),
        ({"canvas": "round"}, "canvas"),
        ({"ema": 2}, "ema"),
        ({"loss": "l2"}, "loss"),
    ):
        with pytest.raises(InputError, match=word):
            from_dict(Recipe, values, "file.json")


@pytest.mark.parametrize(
    "make",
    [
        lambda: AdaptConfig(visits=-1),
        lambda: AdaptConfig(embeddings_only=2),
        lambda: PretrainConfig(data=()),
        lambda: PretrainConfig(steps=0),
        lambda: AdaptConfig(vote_augmentations=("mirrors",)),
        lambda: ModelConfig(puzzle_columns=-1),
    ],
)
def test_settings_out_of_range_are_refused(make):
    with pytest.raises(InputError):
        make()


def test_dtype_follows_the_compute_capability():
    assert dtype_for_capability((7, 5))[0] is torch.float16  # T4
    assert dtype_for_capability((8, 9))[0] is torch.bfloat16  # L4
    assert dtype_for_capability((9, 0))[0] is torch.bfloat16
    runtime = choose_runtime("cpu")
    assert runtime.dtype is torch.float32
    assert "cpu in float32" in str(runtime)
    assert choose_runtime("cpu", "bfloat16").dtype is torch.bfloat16
    for device, dtype in (("tpu", None), ("cpu", "int3")):
        with pytest.raises(InputError):
            choose_runtime(device, dtype)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_gpu_that_is_not_there_is_refused():
    with pytest.raises(InputError, match="no GPU"):
        choose_runtime("cuda")


def test_json_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "x.json"
    write_json(path, {"a": 1})
    with pytest.raises(TypeError):
        write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}


def test_files_are_found_wherever_they_are_mounted(tmp_path):
    with pytest.raises(InputError, match="arc-agi_test_challenges"):
        find_file(tmp_path, CHALLENGES)
    deep = tmp_path / "competitions" / "arc-prize" / "arc-agi_test-challenges.json"
    deep.parent.mkdir(parents=True)
    deep.write_text("{}")
    assert find_file(tmp_path, CHALLENGES) == deep
    near = tmp_path / "arc-prize" / "arc-agi_test_challenges.json"
    near.parent.mkdir()
    near.write_text("{}")
    assert find_file(tmp_path, CHALLENGES) == near
    assert find_artifact(tmp_path) is None
    artifact = tmp_path / "models" / "hrm"
    artifact.mkdir(parents=True)
    (artifact / "model.safetensors").write_text("")
    assert find_artifact(tmp_path) is None  # weights of something else
    (artifact / "config.json").write_text("{}")
    assert find_artifact(tmp_path) == artifact
