"""Test that steps recorded as CUDA graphs learn what launched ones do, or are not used."""

import dataclasses
import gc
import weakref
from unittest import mock

import pytest
import torch
from decoders import make_decoder
from fake_cuda import FakeCuda

from hrm_offline.data.puzzles import ExampleSource, PuzzleSet
from hrm_offline.model.graphs import WARM_UP, GraphChoice
from hrm_offline.model.network import training_batches
from hrm_offline.model.recursive import RecursiveModel
from hrm_offline.ops.dispatch import Decision
from hrm_offline.presets import PRESETS
from hrm_offline.train import graphs as graphs_module
from hrm_offline.train import learner as learner_module
from hrm_offline.train.decoder_learner import DecoderLearner, new_learner
from hrm_offline.train.graphs import Snapshot
from hrm_offline.train.learner import Learner, sum_metrics

SMALL = PRESETS["hrm-132k"]
NEVER = GraphChoice(None, False)
NO_MEMORY = "CUDA out of memory"


@pytest.fixture(autouse=True)
def short_trials(monkeypatch):
    if not torch.cuda.is_available():
        monkeypatch.setattr(graphs_module, "TRIED_STEPS", 3)


@pytest.fixture
def tasks(make_task):
    """Return tasks with two canvases."""
    return tuple(make_task(f"t{side}", [((side, side), (side, side))] * 3, seed=side) for side in (2, 4))


def make_learner(tasks, graphs=None, device="cpu", steps=1000, **changes):
    """Return a learner and what offers its batches."""
    recipe = dataclasses.replace(SMALL.adapt, tokens_per_step=160, **changes)
    puzzles = PuzzleSet(tasks, recipe, SMALL.model, seed=0)
    torch.manual_seed(0)
    model = RecursiveModel(SMALL.model, puzzles.num_rows).to(device)
    learner = Learner(model, recipe, steps, seed=0, graphs=graphs)
    return learner, training_batches(ExampleSource(puzzles, seed=0), model.device)


def weights_of(learner):
    return torch.cat([tensor.flatten() for tensor in (*learner.params, learner.model.puzzle_emb.weights)])


def learned(tasks, graphs, steps=8, **changes):
    """Return a learner after some steps, of which the first two leave the network as it is."""
    learner, offer = make_learner(tasks, graphs, **changes)
    for step in range(steps):
        learner.embeddings_only = step < 2
        learner.learn(offer(step))
    return learner


@pytest.fixture
def plain(tasks):
    """Return the weights that plain steps lead to."""
    return weights_of(learned(tasks, NEVER))


@pytest.mark.parametrize("micro_batches", [1, 2])
def test_recordings_that_are_equal_and_faster_serve_and_learn_the_same(tasks, micro_batches):
    graphs = GraphChoice(FakeCuda(), None)
    ours = learned(tasks, graphs, 12, micro_batches=micro_batches)
    assert graphs.serves
    assert "faster: 1000 ms recorded, 2000 ms" in graphs.reason
    assert len(ours.recorder.recorded) >= micro_batches
    assert graphs.cuda.replays > 0
    theirs = learned(tasks, NEVER, 12, micro_batches=micro_batches)
    assert torch.equal(weights_of(ours), weights_of(theirs))
    assert ours.step == theirs.step


def test_recordings_that_are_no_faster_do_not_serve(tasks, plain):
    graphs = GraphChoice(FakeCuda(recorded_seconds=2.0), None)
    ours = learned(tasks, graphs)
    assert graphs.serves is False
    assert graphs.reason.startswith("no faster")
    assert not ours.recorder.recorded
    assert torch.equal(weights_of(ours), plain)


def test_recordings_with_another_result_do_not_serve(tasks, plain):
    cuda = FakeCuda()
    graphs = GraphChoice(cuda, None)
    learner, offer = make_learner(tasks, graphs)

    def spoil():
        learner.params[0].grad.view(-1)[0] += 1e-3

    cuda.spoil = spoil
    for step in range(8):
        learner.embeddings_only = step < 2
        learner.learn(offer(step))
    assert graphs.serves is False
    assert "other numbers" in graphs.reason
    assert torch.equal(weights_of(learner), plain)


def test_a_recording_that_fails_leaves_plain_steps(tasks, plain):
    for setting in (True, None):  # asked for, measured
        graphs = GraphChoice(FakeCuda([RuntimeError("operation not permitted when stream is capturing")]), setting)
        ours = learned(tasks, graphs)
        assert graphs.serves is False
        assert "recording failed: RuntimeError: operation not permitted" in graphs.reason
        assert torch.equal(weights_of(ours), plain)


@pytest.mark.parametrize("setting", [True, None])
def test_memory_that_runs_out_while_recording_halves_the_batch(tasks, setting):
    """Run out of memory once: the steps go on in two parts, as they would without graphs, and are recorded later."""
    graphs = GraphChoice(FakeCuda([torch.OutOfMemoryError(NO_MEMORY)]), setting)
    ours, offer = make_learner(tasks, graphs)
    halved_at = None
    for step in range(16):
        ours.learn(offer(step))
        if ours.micro_batches == 2 and halved_at is None:
            halved_at = step
    assert ours.micro_batches == 2
    assert graphs.serves
    assert ours.recorder.recorded
    theirs, _ = make_learner(tasks, NEVER)
    for step in range(16):
        if step == halved_at:
            theirs._halve_parts()
        theirs.learn(offer(step))
    assert torch.equal(weights_of(ours), weights_of(theirs))


def test_trials_that_keep_running_out_of_memory_end(tasks):
    graphs = GraphChoice(FakeCuda([torch.OutOfMemoryError(NO_MEMORY)] * 9), None)
    ours = learned(tasks, graphs, 12)
    assert graphs.serves is False
    assert ours.trials <= learner_module._MAX_TRIALS


def test_a_short_run_tries_nothing(tasks):
    graphs = GraphChoice(FakeCuda(), None)
    learner, offer = make_learner(tasks, graphs, steps=learner_module._MIN_STEPS_AHEAD)
    for step in range(8):
        learner.learn(offer(step))
    assert graphs.serves is None
    assert graphs.cuda.captures == 0


def test_a_snapshot_undoes_steps(tasks):
    learner, offer = make_learner(tasks, NEVER)
    for step in range(6):
        learner.embeddings_only = step < 5  # the optimiser's moments exist for one step only
        learner.learn(offer(step))
    batch = next(offer(step) for step in range(6, 30) if (offer(step).bucket, 0) in learner.carries)
    before, start = weights_of(learner).clone(), Snapshot(learner, batch)
    after = []
    for _ in range(2):
        for _ in range(WARM_UP):
            learner.take_step(batch)
        after.append(weights_of(learner).clone())
        start.restore()
        assert torch.equal(weights_of(learner), before)
        assert learner.step == 6
    assert torch.equal(*after)
    assert not torch.equal(after[0], before)


@pytest.fixture
def padded(monkeypatch):
    """Pad the batches of decoders, as where our attention serves."""
    pads = DecoderLearner.pads.fget

    def on_a_gpu(learner):
        with mock.patch("hrm_offline.train.decoder_learner.decide", lambda *_: Decision(True, "as on a GPU")):
            return pads(learner)

    monkeypatch.setattr(DecoderLearner, "pads", property(on_a_gpu))


def make_decoder_learner(tasks, graphs=None, device="cpu", **changes):
    """Return a learner of a decoder and what offers its batches, of a few shapes."""
    changes = {"tokens_per_step": 120, "warmup_steps": 2} | changes
    model, puzzles, recipe = make_decoder(tasks, **changes)
    learner = new_learner(model.to(device), recipe, 1000, 0, graphs=graphs)
    return learner, training_batches(ExampleSource(puzzles, seed=0), learner.model.device)


def decoder_learned(tasks, graphs, steps=16, records=True, **changes):
    """Return a decoder's learner after some steps, and their losses.

    A few of the steps leave all but the embeddings as they are. Without `records` the steps are padded alone.
    """
    learner, offer = make_decoder_learner(tasks, graphs, **changes)
    learner.recorder.on &= records
    losses = []
    for step in range(steps):
        learner.embeddings_only = step < 2 or 8 <= step < 10
        losses.append(sum_metrics(learner.learn(offer(step)))["loss"].item())
    return learner, losses


@pytest.mark.parametrize("micro_batches", [1, 2])
@pytest.mark.usefixtures("padded")
def test_recordings_of_a_decoder_learn_what_its_padded_batches_do(tasks, micro_batches):
    graphs = GraphChoice(FakeCuda(overwrites=True), None)
    ours, our_losses = decoder_learned(tasks, graphs, 24, micro_batches=micro_batches)
    assert graphs.serves and "faster" in graphs.reason
    kinds = [key[0] for key in ours.recorder.recorded]
    assert "gradients" in kinds and "normuon" in kinds
    padded = GraphChoice(FakeCuda(), True)
    theirs, their_losses = decoder_learned(tasks, padded, 24, records=False, micro_batches=micro_batches)
    assert padded.cuda.captures == 0
    assert all(torch.equal(a, b) for a, b in zip(ours.params, theirs.params))
    assert our_losses == their_losses


def test_where_plain_attention_serves_the_update_of_a_decoder_alone_is_recorded(tasks):
    graphs = GraphChoice(FakeCuda(), None)
    learner, _ = decoder_learned(tasks, graphs, 12)
    assert {key[0] for key in learner.recorder.recorded} == {"normuon"}
    theirs, _ = decoder_learned(tasks, NEVER, 12)
    assert all(torch.equal(a, b) for a, b in zip(learner.params, theirs.params))


@pytest.mark.usefixtures("padded")
def test_a_learner_with_recordings_is_freed_with_its_last_name(tasks):
    """A GPU learns one network after another, and has no room for those before. A real recording keeps no code."""

    class Forgetful(FakeCuda):
        def capture(self, compute, own_pool=None):
            result = compute()
            return lambda: result

    learner, _ = decoder_learned(tasks, GraphChoice(Forgetful(), True), 12)
    assert learner.recorder.recorded
    alive = weakref.ref(learner.params[0])
    gc.disable()
    try:
        del learner
        assert alive() is None
    finally:
        gc.enable()


@pytest.mark.usefixtures("padded")
def test_padded_batches_of_a_decoder_learn_what_batches_without_padding_do(tasks):
    ours, _ = decoder_learned(tasks, GraphChoice(FakeCuda(), True), 6, records=False)
    theirs, _ = decoder_learned(tasks, NEVER, 6)
    for a, b in zip(ours.params, theirs.params):
        assert torch.allclose(a, b, atol=1e-4)


@pytest.mark.usefixtures("padded")
def test_nothing_is_padded_where_nothing_will_be_recorded(tasks):
    off = decoder_learned(tasks, GraphChoice(FakeCuda(recorded_seconds=2.0), None), 8)[0]
    assert off.graphs.serves is False and not off.pads
    short, _ = make_decoder_learner(tasks, GraphChoice(FakeCuda(), None))
    assert short.pads
    short.total_steps = learner_module._MIN_STEPS_AHEAD - 1
    assert not short.pads


@pytest.mark.usefixtures("padded")
def test_memory_that_runs_out_while_an_update_is_recorded_leaves_whole_steps(tasks):
    """The update is computed plainly, and nothing is recorded any more."""
    graphs = GraphChoice(FakeCuda([None] * 2 + [torch.OutOfMemoryError(NO_MEMORY)]), True)
    ours, _ = decoder_learned(tasks, graphs, 16)
    assert graphs.serves is False and "fit into memory" in graphs.reason
    steps = {state["step"] for state in ours.optimizer.state.values()}
    assert ours.micro_batches == 1 and steps == {12, 16}  # 4 steps moved the embeddings alone


@pytest.mark.usefixtures("padded")
def test_a_trial_that_begins_without_moments_leaves_them_where_recordings_find_them(tasks):
    learner, offer = make_decoder_learner(tasks, GraphChoice(FakeCuda(), None))
    for step in range(3):
        learner.learn(offer(step))
    learner.optimizer.state.clear()
    for param in learner.params:
        param.grad = None
    batch = offer(3)
    start = Snapshot(learner, batch)
    learner.take_step(batch)
    moments = {param: state["m"].data_ptr() for param, state in learner.optimizer.state.items()}
    start.restore()
    assert not any(state["m"].any() or state["step"] for state in learner.optimizer.state.values())
    learner.take_step(batch)
    assert {param: state["m"].data_ptr() for param, state in learner.optimizer.state.items()} == moments


@pytest.mark.usefixtures("padded")
def test_a_spoilt_recording_of_a_decoder_does_not_serve(tasks):
    cuda = FakeCuda()
    graphs = GraphChoice(cuda, None)
    learner, offer = make_decoder_learner(tasks, graphs)

    def spoil():
        learner.params[0].grad.view(-1)[0] += 1e-3

    cuda.spoil = spoil
    for step in range(8):
        learner.learn(offer(step))
    assert graphs.serves is False and "other numbers" in graphs.reason


@pytest.mark.parametrize("changes", [{"dropout": 0.1}, {"loss_on_input": True}])
def test_dropout_and_a_loss_on_the_input_are_not_recorded(tasks, changes):
    graphs = GraphChoice(FakeCuda(), None)
    learner, _ = decoder_learned(tasks, graphs, 8, **changes)
    assert graphs.serves is False and "not recorded" in graphs.reason
    assert graphs.cuda.captures == 0 and learner.step == 8


@pytest.mark.gpu
@pytest.mark.usefixtures("padded")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("micro_batches", [1, 2])
def test_recorded_steps_of_a_decoder_learn_as_launched_ones_do(tasks, micro_batches, dtype):
    weights = []
    for serves in (False, True):
        learner, offer = make_decoder_learner(tasks, device="cuda", cuda_graphs="yes", micro_batches=micro_batches)
        learner.model.dtype = dtype
        learner.recorder.on = serves
        for step in range(40):
            learner.embeddings_only = step < 2 or 8 <= step < 10
            learner.learn(offer(step))
        assert bool(learner.recorder.recorded) == serves, learner.graphs.reason
        weights.append(torch.cat([param.detach().flatten() for param in learner.params]))
    assert torch.isfinite(weights[0]).all()
    assert torch.equal(*weights)


@pytest.mark.gpu
@pytest.mark.parametrize("micro_batches", [1, 2])
def test_recorded_steps_learn_as_launched_ones_do(tasks, micro_batches):
    """Replay several buckets as CUDA graphs: weights and embeddings equal those of a learner without graphs."""
    weights = []
    for cuda_graphs in ("no", "yes"):
        learner, offer = make_learner(tasks, device="cuda", cuda_graphs=cuda_graphs, micro_batches=micro_batches)
        for step in range(30):
            learner.learn(offer(step))
        if cuda_graphs == "yes":
            assert learner.graphs.serves, learner.graphs.reason
            assert len(learner.recorder.recorded) == 2 * micro_batches
        weights.append(weights_of(learner))
    assert torch.isfinite(weights[0]).all()
    assert torch.equal(*weights)


@pytest.mark.gpu
def test_a_trial_on_a_gpu_finds_the_same_numbers(tasks):
    learner, offer = make_learner(tasks, device="cuda", cuda_graphs="measured")
    for step in range(12):
        learner.learn(offer(step))
    assert "other numbers" not in learner.graphs.reason
    assert "failed" not in learner.graphs.reason
