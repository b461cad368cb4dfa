"""Test the decoder: sequences do not see each other or the future, and a cache changes nothing."""

import dataclasses

import numpy as np
import pytest
import torch
from decoders import make_decoder
from kernels import difference, needs_triton
from networks import DECODER

from hrm_offline.common.errors import InputError
from hrm_offline.data.puzzles import ExampleSource
from hrm_offline.model.network import training_batches
from hrm_offline.model.pairs import PairMaker
from hrm_offline.ops.dispatch import override

CPU = torch.device("cpu")
TASKS = [((3, 5), (2, 4)), ((1, 1), (6, 2)), ((4, 4), (4, 4)), ((2, 2), (2, 2))]
NETWORKS = {
    "once": DECODER,
    "looped": dataclasses.replace(DECODER, H_cycles=3),
    "colours": dataclasses.replace(DECODER, puzzle_columns=3),
    "no embeddings": dataclasses.replace(DECODER, puzzle_columns=0),
}


@pytest.fixture(params=NETWORKS)
def network(request):
    return NETWORKS[request.param]


@pytest.fixture
def decoder(make_task, network):
    return make_decoder((make_task("a", TASKS, seed=1), make_task("b", TASKS, seed=2)), network)


def everywhere(model, pairs):
    """Return the logits after every token."""
    with torch.no_grad():
        return model(pairs, torch.arange(len(pairs.tokens)))


def test_a_packed_batch_equals_its_sequences_alone(decoder):
    model, puzzles, _ = decoder
    batch = ExampleSource(puzzles, 0).batch(3)
    maker = PairMaker(puzzles, puzzles.demonstrations, CPU)
    whole = everywhere(model, maker.make(batch))
    alone = torch.cat([everywhere(model, maker.make(batch.rows(slice(i, i + 1)))) for i in range(len(batch))])
    torch.testing.assert_close(whole, alone, atol=1e-4, rtol=1e-4)
    pairs = maker.make(batch)
    torch.testing.assert_close(model(pairs, pairs.answers), whole[pairs.answers], atol=1e-4, rtol=1e-4)


def test_no_token_sees_a_later_one(decoder):
    model, puzzles, _ = decoder
    pairs = PairMaker(puzzles, puzzles.demonstrations, CPU).make(ExampleSource(puzzles, 0).batch(0).rows(slice(3)))
    before = everywhere(model, pairs)
    changed = int(pairs.bounds[1]) + 4  # in the second of three sequences
    pairs.tokens[changed] = (pairs.tokens[changed] + 1) % 10
    after = everywhere(model, pairs)
    differs = ((after - before).abs().amax(1) > 1e-6).nonzero()[:, 0].tolist()
    assert differs[0] == changed
    assert set(differs) <= set(range(changed, int(pairs.bounds[2])))
    assert len(differs) > 3


def test_decoding_with_a_cache_equals_reading_everything_again(decoder):
    model, puzzles, _ = decoder
    maker = PairMaker(puzzles, puzzles.demonstrations, CPU)
    batch = ExampleSource(puzzles, 0).batch(5).rows(slice(6))
    pairs, prompts = maker.make(batch), maker.prompts(batch)
    expected = everywhere(model, pairs)
    starts, lengths = pairs.bounds[:-1].long(), pairs.bounds.diff().long()
    with torch.inference_mode():
        logits, cache = model.prefill(prompts, pairs.longest + 3)
        at = prompts.bounds.diff().long() - 1  # the token that was read last, counted in its sequence
        while True:
            torch.testing.assert_close(logits, expected[starts + at], atol=1e-4, rtol=1e-4)
            alive = (at + 1 < lengths).nonzero()[:, 0]
            if not len(alive):
                break
            if len(alive) < len(at):
                cache, starts, lengths, at = cache.rows(alive), starts[alive], lengths[alive], at[alive]
            at = at + 1
            where = starts + at
            logits = model.extend(cache, pairs.tokens[where], pairs.positions[where])


@needs_triton
def test_kernels_compute_the_same_network(make_task):
    model, puzzles, _ = make_decoder((make_task("a", TASKS, seed=1),))
    maker = PairMaker(puzzles, puzzles.demonstrations, CPU)
    batch = ExampleSource(puzzles, 0).batch(3).rows(slice(2))
    pairs, prompts = maker.make(batch), maker.prompts(batch)
    where = pairs.bounds[:-1].long() + prompts.bounds.diff()  # the first tokens that the prompts lack
    results = {}
    for mode in ("triton", "reference"):
        with override(mode):
            model.zero_grad()
            logits = model(pairs, pairs.answers)
            logits.square().sum().backward()
            with torch.inference_mode():
                _, cache = model.prefill(prompts, pairs.longest)
                decoded = model.extend(cache, pairs.tokens[where], pairs.positions[where])
        results[mode] = [logits, decoded, *(p.grad.clone() for p in model.parameters())]
    for ours, expected in zip(results["triton"], results["reference"], strict=True):
        assert difference(ours, expected) < 1e-4


def test_embeddings_of_puzzle_view_and_colours_reach_every_token(make_task):
    model, puzzles, _ = make_decoder((make_task("a", TASKS),), NETWORKS["colours"])
    batch = training_batches(ExampleSource(puzzles, 0), CPU)(0)
    pairs = batch.sequences(slice(2))
    before = everywhere(model, pairs)
    rows = pairs.identifiers[0].tolist()
    assert len(rows) == 12
    for row in rows:  # the puzzle's, the view's, and what becomes of each colour
        with torch.no_grad():
            model.puzzle_emb.weights[row] += 1
        after = everywhere(model, pairs)
        assert bool((after != before).any(1)[: int(pairs.bounds[1])].all())
        before = after


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"positions": "rope-2d"}, "rope-2d"),
        ({"halt_max_steps": 2}, "halt_max_steps"),
        ({"vocab_size": 12}, "vocab_size"),
        ({"puzzle_emb_ndim": 16}, "puzzle_emb_ndim"),
        ({"L_layers": 1}, "L_layers"),
        ({"architecture": "transformer"}, "rope-3d"),
        ({"num_heads": 8}, "multiple of 8"),
    ],
)
def test_settings_that_are_not_a_decoders_are_refused(change, word):
    with pytest.raises(InputError, match=word):
        dataclasses.replace(DECODER, **change)


def test_half_precision_is_close(make_task):
    model, puzzles, _ = make_decoder((make_task("a", TASKS),))
    pairs = PairMaker(puzzles, puzzles.demonstrations, CPU).make(ExampleSource(puzzles, 0).batch(0))
    expected = everywhere(model, pairs)
    model.dtype = torch.bfloat16
    found = everywhere(model, pairs)
    assert found.dtype == torch.bfloat16
    assert (found - expected).abs().max() < 0.1 * np.abs(expected.numpy()).max()
