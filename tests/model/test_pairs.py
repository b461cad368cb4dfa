"""Test a decoder's packed sequences against sequences that are written out plainly."""

import dataclasses

import numpy as np
import torch
from decoders import make_decoder
from networks import DECODER

from hrm_offline.common.tokens import COLOURS, FIRST_COLOUR
from hrm_offline.data.puzzles import ExampleSource
from hrm_offline.model.pairs import PairMaker
from hrm_offline.predict.plan import PredictionPlan

CPU = torch.device("cpu")
TASKS = [((3, 5), (2, 4)), ((1, 1), (6, 2)), ((4, 4), (4, 4))]


def plain(grid, part):
    """Return the tokens of a grid with their positions."""
    rows = [[*(cell + 2 for cell in row), 14] for row in grid.tolist()]
    return [(token, r, c, part) for r, row in enumerate(rows) for c, token in enumerate(row)]


def sequence(source, output):
    start = [(12, 0, 0, 0), *plain(source, 1), (13, 0, 0, 2)]
    return start if output is None else start + plain(output, 3)


def check(pairs, expected, identifiers):
    bounds = pairs.bounds.tolist()
    assert len(pairs) == len(expected)
    assert pairs.longest == max(map(len, expected))
    assert pairs.identifiers.tolist() == identifiers
    answers = []
    for i, rows in enumerate(expected):
        mine = slice(bounds[i], bounds[i + 1])
        shown = torch.cat([pairs.tokens[mine, None], pairs.positions[mine]], dim=1)
        assert [tuple(row) for row in shown.tolist()] == rows
        assert pairs.owners[mine].tolist() == [i] * len(rows)
        assert pairs.targets[mine].tolist() == [token for token, *_ in rows[1:]] + [1]
        separator = next(k for k, row in enumerate(rows) if row[0] == 13)
        assert pairs.counts[i] == len(rows) - separator
        answers += range(bounds[i] + separator, bounds[i + 1])
    assert pairs.answers.tolist() == answers


def test_training_batches_hold_each_pair_as_its_view_shows_it(make_task):
    network = dataclasses.replace(DECODER, puzzle_columns=3)
    _, puzzles, _ = make_decoder((make_task("a", TASKS, seed=1), make_task("b", TASKS, seed=2)), network)
    source = ExampleSource(puzzles, 0)
    maker, elements = PairMaker(puzzles, source.examples, CPU), set()
    for step in range(12):
        batch = source.batch(step)
        shown = [(puzzles.all_views[view], source.examples.pairs[i]) for view, i in zip(batch.views, batch.examples)]
        elements |= {view.element for view, _ in shown}
        expected = [sequence(view.apply(pair.input), view.apply(pair.output)) for view, pair in shown]
        offered = maker.offer(batch)
        assert offered.answer_tokens == sum(pair.output.size + len(view.apply(pair.output)) + 1 for view, pair in shown)
        check(offered.sequences(slice(None)), expected, puzzles.identifiers()[batch.views].tolist())
        assert max(map(len, expected)) <= batch.canvas[1] <= 1.25 * max(map(len, expected)) + 60
    assert elements == set(range(8))


def test_prompts_and_judged_pairs(make_task):
    _, puzzles, recipe = make_decoder((make_task("a", TASKS, test=TASKS[:2], seed=1),))
    maker = PairMaker(puzzles, puzzles.tests, CPU)
    batch = PredictionPlan(puzzles, recipe).rounds[1][0]
    views = [puzzles.all_views[view] for view in batch.views]
    inputs = [view.apply(puzzles.tests.pairs[i].input) for view, i in zip(views, batch.examples)]
    identifiers = puzzles.identifiers()[batch.views].tolist()
    check(maker.prompts(batch), [sequence(grid, None) for grid in inputs], identifiers)
    rng = np.random.default_rng(0)
    candidates = [rng.integers(0, 10, rng.integers(1, 5, 2)).astype(np.uint8) for _ in views]
    expected = [sequence(grid, view.apply(other)) for grid, view, other in zip(inputs, views, candidates)]
    check(maker.make_with(batch.examples, batch.views, candidates), expected, identifiers)


def test_padding_leaves_the_sequences_and_their_answers_as_they_are(make_task):
    tasks = (make_task("a", [((3, 3), (2, 4)), ((2, 3), (3, 2)), ((9, 9), (9, 9))], seed=1),)
    model, puzzles, _ = make_decoder(tasks, tokens_per_step=400)
    pairs = PairMaker(puzzles, puzzles.demonstrations, CPU).make(ExampleSource(puzzles, 0).batch(0))
    padded = pairs.padded()
    tokens, sequences = len(pairs.tokens), len(pairs)
    assert len(padded.tokens) % 64 == 0 and tokens <= len(padded.tokens) < 1.125 * tokens + 64
    assert len(padded) & (len(padded) - 1) == 0 and padded.bounds[-1] == len(padded.tokens)
    lengths = padded.bounds.diff()
    assert padded.longest >= pairs.longest and lengths.min() >= 0 and lengths.max() <= padded.longest
    assert torch.equal(padded.owners, torch.arange(len(padded)).repeat_interleave(lengths))
    assert padded.counts[sequences:].sum() == 0
    with torch.no_grad():
        expected, ours = model(pairs, pairs.answers), model(padded)
    assert torch.allclose(ours[pairs.answers], expected, atol=1e-5)
    assert torch.isfinite(ours).all()


def test_turned_sequences_have_other_colours_alone(make_task):
    tasks = (make_task("a", [((3, 3), (2, 4))] * 2, seed=1),)
    _, puzzles, _ = make_decoder(tasks)
    pairs = PairMaker(puzzles, puzzles.demonstrations, CPU).make(ExampleSource(puzzles, 0).batch(0))
    turned = pairs.turned(3)
    is_colour = (pairs.tokens >= FIRST_COLOUR) & (pairs.tokens < FIRST_COLOUR + COLOURS)
    moved = (turned.tokens - pairs.tokens) % COLOURS
    assert bool((moved[is_colour] == 3).all()) and torch.equal(turned.tokens[~is_colour], pairs.tokens[~is_colour])
    assert torch.equal(pairs.turned(COLOURS).targets, pairs.targets)
