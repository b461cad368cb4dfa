"""Test a pretraining run that is carried from machine to machine in small files."""

import json
import shutil
import signal

import pytest
import torch
from decoders import make_decoder
from pretraining import SETTINGS, metrics, run
from safetensors.torch import load_file, save

from hrm_offline.cli import main
from hrm_offline.data.puzzles import ExampleSource
from hrm_offline.model.network import training_batches
from hrm_offline.train import relay
from hrm_offline.train.decoder_learner import DecoderLearner, new_learner
from hrm_offline.train.learner import Learner
from hrm_offline.train.relay import load_relay, save_relay
from hrm_offline.train.state import learner_tensors

HALF, STEPS = 30, 60


def train(out, *extra, stop=None, look=lambda learner: None) -> int:
    """Train on in `out`, until step `stop` if given, and return the exit code.

    `look` is called with the learner after each step.
    """
    learn = Learner.learn

    def watched(learner, batch):
        parts = learn(learner, batch)
        look(learner)
        if learner.step == stop:
            signal.raise_signal(signal.SIGTERM)
        return parts

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Learner, "learn", watched)
        return main(["pretrain", "--out", str(out), *SETTINGS, *map(str, extra)])


@pytest.fixture(scope="module")
def carried(tmp_path_factory):
    """Train to step 30 with a relay in several parts. Return the folder of both, which tests must not change."""
    folder = tmp_path_factory.mktemp("carried")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(relay, "PART_BYTES", 400_000)
        assert train(folder / "out", "--relay", folder / "relay", stop=HALF) == 1
    return folder


@pytest.fixture
def copied(carried, tmp_path):
    """Copy that relay, for a test to change."""
    return shutil.copytree(carried / "relay", tmp_path / "relay")


def state(out) -> dict[str, torch.Tensor]:
    """Return the tensors of a run's saved state."""
    folder = json.loads((out / "state.json").read_text())["folder"]
    return load_file(out / folder / "learner.safetensors")


def rate(learner) -> float:
    return learner.optimizer.param_groups[0]["lr"]


def test_a_run_that_ends_leaves_the_signals_to_its_caller(tmp_path):
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    assert train(tmp_path, stop=1) == 1
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before


def test_a_run_that_halved_its_batches_goes_on_with_halves(tmp_path):
    """Check that the saved slots, which are of halves, meet halves again."""
    halve = Learner._halve_parts
    assert train(tmp_path, stop=5, look=lambda learner: halve(learner) if learner.step == 1 else None) == 1
    parts = []
    assert train(tmp_path, stop=15, look=lambda learner: parts.append(learner.micro_batches)) == 1
    assert parts == [2] * 10


def test_goes_on_elsewhere_like_an_unbroken_run(carried, copied, tmp_path):
    """Compare with a run whose sequences start anew at the same step. Only Adam's moments differ, by rounding."""
    rates, continued = {}, {}

    def restart(learner):
        rates[learner.step] = rate(learner)
        if learner.step == HALF:
            learner.carries.clear()

    assert train(tmp_path / "unbroken", look=restart) == 0
    assert (
        train(tmp_path / "on", "--relay", copied, look=lambda learner: continued.update({learner.step: rate(learner)}))
        == 0
    )
    assert continued == {step: rates[step] for step in range(HALF + 1, STEPS + 1)}
    expected = metrics(tmp_path / "unbroken")
    lines = metrics(carried / "out") + metrics(tmp_path / "on")
    assert [line["step"] for line in lines] == [line["step"] for line in expected]
    for line, tolerance in ((lines[HALF // 5], 1e-3), (lines[-1], 0.05)):
        assert line["lm_loss"] == pytest.approx(expected[lines.index(line)]["lm_loss"], rel=tolerance)
    assert state(tmp_path / "on")["adam/0/step"] == STEPS
    assert json.loads((copied / "relay.json").read_text())["step"] == STEPS
    assert {path.name[:14] for path in copied.glob("*.part")} == {f"relay-{STEPS:08d}"}


def test_holds_what_the_state_holds(carried):
    index = json.loads((carried / "relay" / "relay.json").read_text())
    parts = sorted((carried / "relay").glob("*.part"))
    assert [path.stat().st_size for path in parts] == [part["bytes"] for part in index["parts"]]
    assert len(parts) > 2
    assert max(part["bytes"] for part in index["parts"]) <= 400_000
    ours = relay.parse_safetensors(b"".join(path.read_bytes() for path in parts), "")
    expected = state(carried / "out")
    assert ours.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(ours[name], value.to(ours[name].dtype))
        assert ours[name].dtype == (torch.bfloat16 if name.endswith(("/m", "/v")) else value.dtype)
    assert relay.PART_BYTES <= 16e6


def test_a_state_that_is_as_far_is_preferred(carried, copied, tmp_path, capsys):
    out = shutil.copytree(carried / "out", tmp_path / "out")
    assert train(out, "--relay", copied, stop=HALF + 1) == 1
    assert "continuing at step 30\n" in capsys.readouterr().out
    assert train(out, "--relay", copied, stop=HALF + 2) == 1
    assert "continuing at step 31\n" in capsys.readouterr().out
    ahead = shutil.copytree(copied, tmp_path / "ahead")
    out = shutil.copytree(carried / "out", tmp_path / "behind")
    assert train(out, "--relay", ahead, stop=HALF + 3) == 1
    assert "continuing at step 32 of the relay\n" in capsys.readouterr().out
    assert [path.name for path in out.glob("state-*")] == ["state-00000033"]
    (ahead / "relay.json").unlink()  # as a kill during the very first writing leaves it
    assert train(out, "--relay", ahead, stop=HALF + 4) == 1


def test_without_moments_the_optimiser_counts_anew(tmp_path):
    assert train(tmp_path / "out", "--relay", tmp_path / "relay", "--no-relay-moments", stop=HALF) == 1
    assert json.loads((tmp_path / "relay" / "relay.json").read_text())["inside"] == ["ema", "model"]
    assert train(tmp_path / "on", "--relay", tmp_path / "relay", stop=HALF + 4) == 1
    assert state(tmp_path / "on")["adam/0/step"] == 4
    # And goes on counting where the state says, not at the run's step.
    assert train(tmp_path / "on", stop=HALF + 6) == 1
    assert state(tmp_path / "on")["adam/0/step"] == 6


def test_a_large_table_stays_and_its_fresh_rows_learn_first(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(relay, "_MAX_TABLE_BYTES", 10_000)
    monkeypatch.setattr(relay, "_REWARM_STEPS", 10)
    settings = ("--conditioning", "table", "--relay", tmp_path / "relay")
    seen = {}

    def look(learner):
        tensors = [*learner.params, *learner.ema.average, learner.model.puzzle_emb.weights]
        seen[learner.step] = [tensor.detach().clone() for tensor in tensors]

    assert train(tmp_path / "out", *settings, stop=HALF, look=look) == 1
    assert json.loads((tmp_path / "relay" / "relay.json").read_text())["table_rows"] == relay.SHARED_ROWS
    # Stopped and continued in between, from the state.
    assert train(tmp_path / "on", *settings, stop=HALF + 4, look=look) == 1
    assert "of the relay, embeddings alone until 40" in capsys.readouterr().out
    assert train(tmp_path / "on", *settings, look=look) == 0
    before = seen[HALF]
    for step in range(HALF + 1, HALF + 11):
        assert all(torch.equal(*pair) for pair in zip(seen[step][:-1], before[:-1]))
        assert not torch.equal(seen[step][-1], seen[step - 1][-1])
    assert not any(torch.equal(*pair) for pair in zip(seen[HALF + 11][:-1], before[:-1]))
    untouched = seen[HALF + 1][-1][relay.SHARED_ROWS :]
    mean = before[-1][relay.SHARED_ROWS :].mean(0)
    assert sum(torch.equal(row, mean) for row in untouched) > 10
    assert state(tmp_path / "on")["adam/0/step"] == STEPS - 10


def make_decoder_learner(make_task) -> DecoderLearner:
    """Return a learner of a decoder with 130 rows of embeddings, 20 of them of puzzles."""
    tasks = tuple(make_task(f"t{number}", [((2, 2), (2, 2))] * 2, seed=number) for number in range(20))
    model, puzzles, recipe = make_decoder(tasks, tokens_per_step=400, warmup_steps=0, ema=0.5)
    learner = new_learner(model, recipe, 40, seed=0)
    learner.offer = training_batches(ExampleSource(puzzles, 0), model.device)
    return learner


def table_of(learner) -> tuple[torch.nn.Parameter, torch.Tensor]:
    """Return the embedding table of a decoder and its average."""
    table = learner.model.puzzle_emb.weights
    number = next(i for i, param in enumerate(learner.params) if param is table)
    return table, learner.ema.average[number]


def as_earlier_versions_wrote(learner, folder):
    """Write a relay whose table alone is cut, in one part."""
    tensors = learner_tensors(learner)
    for name in tensors:
        if name.endswith(("/m", "/v")):
            tensors[name] = tensors[name].bfloat16()
    key = "model/puzzle_emb.weights"
    content = save(tensors | {key: relay.shared_rows(tensors[key])})
    (folder / f"relay-{learner.step:08d}-000.part").write_bytes(content)
    part = {"bytes": len(content), "sha256": relay.hashlib.sha256(content).hexdigest()}
    index = {"format": relay.FORMAT, "step": learner.step, "identity": {}, "parts": [part]}
    (folder / "relay.json").write_text(json.dumps(index))


@pytest.mark.parametrize("earlier", [False, True])
def test_the_average_and_the_moments_of_a_decoders_table_are_cut_with_it(make_task, tmp_path, monkeypatch, earlier):
    """There the table is a parameter, which has both."""
    learner, carried = make_decoder_learner(make_task), make_decoder_learner(make_task)
    for step in range(3):
        learner.learn(learner.offer(step))
    table, average = table_of(learner)
    rows, columns = table.shape
    monkeypatch.setattr(relay, "_MAX_TABLE_BYTES", table.nbytes - 1)
    if earlier:
        as_earlier_versions_wrote(learner, tmp_path)
    else:
        save_relay(tmp_path, learner, {})
        whole = sum(value.nbytes for value in learner_tensors(learner).values())
        assert sum(path.stat().st_size for path in tmp_path.glob("*.part")) < whole
        written = relay.parse_safetensors(b"".join(path.read_bytes() for path in sorted(tmp_path.glob("*.part"))), "")
        assert all(value.shape != table.shape for value in written.values())
    assert load_relay(tmp_path, carried, {}) == 3 + relay._REWARM_STEPS
    for ours, theirs in zip(table_of(carried), (table, average)):
        mean = theirs[relay.SHARED_ROWS :].mean(0)
        assert torch.equal(ours[relay.SHARED_ROWS :], mean.expand(rows - relay.SHARED_ROWS, columns))
        assert torch.equal(ours[1:9], theirs[1:9])  # of the dihedral group, which all puzzles share
    updated = {param for param, moments in carried.optimizer.state.items() if moments}
    assert updated == {param for param in carried.params if param is not table_of(carried)[0]}
    carried.embeddings_only = True
    carried.learn(carried.offer(3))
    assert carried.optimizer.state[table_of(carried)[0]]["step"] == 1
    assert bool(table_of(carried)[0].isfinite().all())


@pytest.mark.parametrize("processes", [1, 2])
def test_stops_after_some_minutes_and_can_be_continued(tmp_path, processes):
    settings = ("--relay", str(tmp_path / "relay"), "--steps", "100000")
    if processes == 1:
        assert train(tmp_path / "out", *settings, "--minutes", "0.01") == 1
    else:
        run(tmp_path / "out", *settings, "--minutes", "0.01", processes=processes, code=1)
    step = json.loads((tmp_path / "relay" / "relay.json").read_text())["step"]
    assert json.loads((tmp_path / "out" / "state.json").read_text())["step"] == step > 0
    assert train(tmp_path / "on", *settings, stop=step + 3) == 1
    assert json.loads((tmp_path / "relay" / "relay.json").read_text())["step"] == step + 3


def flip(path):
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(content)


def joined(change):
    """Make a relay whose index fits its parts, from tensors that `change` changed or from the bytes that it returns."""

    def damage(folder):
        index = json.loads((folder / "relay.json").read_text())
        parts = sorted(folder.glob("*.part"))
        tensors = relay.parse_safetensors(b"".join(path.read_bytes() for path in parts), "")
        content = change(tensors)
        if not isinstance(content, bytes):
            content = save(tensors)
        parts[0].write_bytes(content)
        part = {"bytes": len(content), "sha256": relay.hashlib.sha256(content).hexdigest()}
        (folder / "relay.json").write_text(json.dumps(index | {"parts": [part]}))

    return damage


def indexed(**change):
    def damage(folder):
        index = json.loads((folder / "relay.json").read_text())
        (folder / "relay.json").write_text(json.dumps(index | change))

    return damage


def table(value):
    return joined(lambda tensors: tensors.update({"model/puzzle_emb.weights": value}))


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: flip(folder / "relay-00000030-001.part"), "relay-00000030-001.part: is missing or damaged"),
        (
            lambda folder: (folder / "relay-00000030-001.part").unlink(),
            "relay-00000030-001.part: is missing or damaged",
        ),
        (lambda folder: (folder / "relay.json").unlink(), "relay.json: is missing, but there are parts"),
        (lambda folder: (folder / "relay.json").write_text("{}"), "relay.json: expected the index"),
        (indexed(step=-1), "relay.json: 'step' is -1"),
        (indexed(step="../../30"), "relay.json: 'step' is '../../30'"),
        (indexed(step=61), "relay.json: is of step 61, this run has 60"),
        (indexed(parts=[{"bytes": 1}]), "relay.json: 'parts' is a list of 1 item"),
        (indexed(parts=[]), "cannot be read as safetensors"),
        (indexed(identity={"lr": {}}), "relay.json: 'identity' is"),
        (indexed(identity={}), "was saved with beta1 = the default, this run has 0.9"),
        (joined(lambda _: b"\0" * 100), "cannot be read as safetensors"),
        (joined(lambda tensors: tensors.pop("ema/3")), "tensor 'ema/3' is missing"),
        (joined(lambda tensors: tensors.pop("adam/3/v")), "tensor 'adam/3/v' is missing"),
        (joined(lambda tensors: tensors.update({"ema/99": torch.zeros(1)})), "tensor 'ema/99' has no place"),
        (joined(lambda tensors: tensors.update({"ema/3": torch.zeros(1)})), "tensor 'ema/3' is torch.float32 [1]"),
        (joined(lambda tensors: tensors.update({"adam/3/step": torch.tensor(-1)})), "'adam/3/step' is -1"),
        (
            joined(lambda tensors: tensors["ema/3"].fill_(float("nan"))),
            "tensor 'ema/3' holds numbers that are not finite",
        ),
        (table(torch.zeros(relay.SHARED_ROWS)), "tensor 'model/puzzle_emb.weights' is torch.float32 [110]"),
        (
            table(torch.zeros(relay.SHARED_ROWS, 64, dtype=torch.int32)),
            "tensor 'model/puzzle_emb.weights' is torch.int32",
        ),
    ],
)
def test_a_damaged_relay_is_refused_in_one_line(copied, tmp_path, capsys, damage, words):
    damage(copied)
    assert train(tmp_path / "on", "--relay", copied) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1
    assert len(error) < 400 + 2 * len(str(tmp_path))


def test_another_runs_relay_and_minutes_below_0_are_refused(copied, tmp_path, capsys):
    assert train(tmp_path / "on", "--relay", copied, "--lr", "0.1") == 2
    assert "relay.json: was saved with lr = 0.003, this run has 0.1" in capsys.readouterr().err
    assert train(tmp_path / "on", "--minutes", "-1") == 2
    assert "minutes is -1.0" in capsys.readouterr().err
