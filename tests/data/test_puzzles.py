"""Test batches of examples: buckets, turns, translation, and the rows of the embedding table."""

import dataclasses

import numpy as np
import pytest
import torch
from networks import DECODER

from hrm_offline.common.errors import InputError
from hrm_offline.common.tokens import IGNORE, PAD
from hrm_offline.config import AdaptConfig, ModelConfig, Recipe
from hrm_offline.data.canvas import make_buckets
from hrm_offline.data.context import NO_PAIR
from hrm_offline.data.grids import decode_grid
from hrm_offline.data.puzzles import (
    FIRST_COLOUR_ROW,
    FIRST_DIHEDRAL_ROW,
    SHARED_ROWS,
    Batch,
    ExampleSource,
    PuzzleSet,
    unpack,
)
from hrm_offline.data.tasks import load_tasks
from hrm_offline.model.batching import BatchMaker
from hrm_offline.presets import PRESETS


def test_few_shot_conditioning_needs_a_network_for_it_and_the_other_way_round(make_task):
    recipe = dataclasses.replace(PRESETS["hrm-132k"].adapt, conditioning="few-shot")
    with pytest.raises(InputError, match="few-shot"):
        PuzzleSet((make_task("t"),), recipe, dataclasses.replace(PRESETS["hrm-132k"].model, puzzle_columns=0), 0)
    with pytest.raises(InputError, match="factored"):
        PuzzleSet((make_task("t"),), PRESETS["hrm-132k"].adapt, PRESETS["hrm-132k"].model.conditioned(recipe), 0)


TABLE = Recipe(tokens_per_step=400, colour_permutations=3, translate=0.5)
FACTORED = dataclasses.replace(TABLE, conditioning="factored")
PLAIN = dataclasses.replace(FACTORED, colour_permutations=0)
MODEL = ModelConfig()
TWO_COLUMNS = dataclasses.replace(MODEL, puzzle_columns=2)
THREE_COLUMNS = dataclasses.replace(MODEL, puzzle_columns=3)
CPU = torch.device("cpu")


def some_tasks(make_task):
    return (
        make_task("small", seed=1),
        make_task("wide", [((2, 9), (4, 6))] * 2, [((2, 8), (4, 7)), ((3, 3), (4, 4))], seed=2),
        make_task("full", [((30, 30), (30, 30))], [((30, 30), (30, 30))], seed=3),
    )


def test_every_example_is_in_one_bucket_that_holds_it(make_task):
    source = ExampleSource(PuzzleSet(some_tasks(make_task), TABLE, MODEL, 0), 0)
    assert sorted(np.concatenate([b.members for b in source.buckets]).tolist()) == list(range(6))
    for bucket in source.buckets:
        for member in bucket.members:
            pair, room = source.examples.pairs[member], source.examples.rooms[member]
            assert (room >= pair.input.shape).all()
            assert (room >= pair.output.shape).all()
            side = room.max()
            assert bucket.canvas == (min(side + 1, 30),) * 2  # room for the EOS edge
    full = make_buckets(source.examples.rooms, "full", (30, 30))
    assert [b.canvas for b in full] == [(30, 30)]
    assert full[0].members.tolist() == list(range(6))


@pytest.mark.parametrize(("recipe", "model"), [(TABLE, MODEL), (FACTORED, THREE_COLUMNS), (PLAIN, TWO_COLUMNS)])
def test_batches_hold_whole_examples_with_the_right_embedding_rows(make_task, recipe, model):
    puzzles = PuzzleSet(some_tasks(make_task), recipe, model, seed=0)
    source = ExampleSource(puzzles, seed=5)
    maker = BatchMaker(puzzles, source.examples, CPU)
    identifiers = puzzles.identifiers()
    seen = set()
    for step in range(60):
        batch = source.batch(step)
        bucket = source.buckets[batch.bucket]
        assert batch.canvas == bucket.canvas
        views = (puzzles.first_view[1:] - puzzles.first_view[:-1])[source.examples.puzzles[bucket.members]]
        assert len(batch) == min(max(1, recipe.tokens_per_step // bucket.area), views.sum())
        made = maker.make(batch)
        for example, view, tokens, labels, ids, cells in zip(
            batch.examples,
            batch.views,
            made.inputs.numpy(),
            made.labels.numpy(),
            made.puzzle_identifiers,
            made.cells,
        ):
            assert example in bucket.members
            puzzle = source.examples.puzzles[example]
            assert puzzles.first_view[puzzle] <= view < puzzles.first_view[puzzle + 1]
            assert ids.tolist() == identifiers[view].tolist()
            labels = np.where(labels == IGNORE, PAD, labels)
            assert not tokens[cells:].any()  # nothing is where nothing exists
            assert not labels[cells:].any()
            for ours, truth in zip((tokens, labels), vars(source.examples.pairs[example]).values()):
                assert np.array_equal(view_free(puzzles.all_views[view], ours, bucket.canvas), truth)
            seen.add(puzzle)
    assert seen == {0, 1, 2}


def view_free(view, tokens, canvas):
    """Return the grid of the original task, wherever the tokens show it on the canvas."""
    board = tokens.reshape(canvas)
    rows, cols = np.nonzero(board >= 2)
    moved = board[rows.min() :, cols.min() :]
    return view.invert(decode_grid(moved, moved.shape))


def test_a_batch_is_packed_by_column_and_read_by_name():
    examples, views, corners = np.array([3, 1, 2]), np.array([7, 8, 9]), np.array([[0, 1], [2, 3], [4, 5]])
    contexts = np.array([[5, NO_PAIR], [6, 4], [NO_PAIR, NO_PAIR]])
    batch = Batch.of(2, (5, 6), examples, views, corners, contexts)
    assert batch.packed.dtype == np.int32
    assert batch.packed.shape == (3, 6)
    for columns in (batch, unpack(torch.from_numpy(batch.packed))):
        assert columns.examples.tolist() == [3, 1, 2]
        assert columns.views.tolist() == [7, 8, 9]
        assert columns.corners.tolist() == corners.tolist()
        assert columns.contexts.tolist() == contexts.tolist()
    some = batch.rows(np.array([2, 0, 0]))
    assert (some.bucket, some.canvas, some.examples.tolist()) == (2, (5, 6), [2, 3, 3])
    assert batch.rows(np.array([False, True, False])).views.tolist() == [8]
    joined = Batch.joined([batch.rows(slice(1)), batch.rows(slice(1, None))])
    assert np.array_equal(joined.packed, batch.packed)
    plain = Batch.of(0, (3, 3), examples, views)
    assert plain.corners.tolist() == [[0, 0]] * 3
    assert plain.contexts.shape == (3, 0)


def test_a_batch_depends_on_seed_and_step_alone(make_task):
    puzzles = PuzzleSet(some_tasks(make_task), TABLE, MODEL, seed=0)
    one, other = ExampleSource(puzzles, seed=5), ExampleSource(puzzles, seed=5)
    one.batch(3)
    assert np.array_equal(one.batch(7).packed, other.batch(7).packed)
    steps = range(20)
    assert any(one.batch(s).packed.tobytes() != ExampleSource(puzzles, seed=6).batch(s).packed.tobytes() for s in steps)


def test_buckets_take_turns_in_proportion_to_their_work(make_task):
    tasks = (*(make_task(f"s{i}", seed=i) for i in range(6)), make_task("l", [((9, 9), (9, 9))] * 3, seed=9))
    source = ExampleSource(PuzzleSet(tasks, TABLE, MODEL, 0), seed=0)
    counts = np.bincount([source.batch(s).bucket for s in range(1000)], minlength=2)
    expected = np.array([18 / (400 // 16), 3 / (400 // 121)])
    assert np.allclose(counts / 1000, expected / expected.sum(), atol=0.01)
    assert source.steps_per_visit == pytest.approx(expected.sum())


def with_companions(make_task, recipe=TABLE, model=MODEL, seed=0, **changes):
    """Return the puzzles of three tasks, and the same with those of five companions after them."""
    recipe = AdaptConfig(**(vars(recipe) | changes))
    own = PuzzleSet(some_tasks(make_task), recipe, model, seed)
    shapes = [((3 + i, 3), (4, 4)) for i in range(5)]
    along = tuple(make_task(f"along{i}", [shape] * 6, (), seed=50 + i) for i, shape in enumerate(shapes))
    return own, own.with_companions(PuzzleSet(along, recipe, model, seed))


@pytest.mark.parametrize(("decoder", "share"), [(False, 0.2), (False, 0.75), (True, 0.5)])
def test_companions_have_their_share_of_the_steps_and_the_others_all_their_visits(make_task, decoder, share):
    recipe, model = (PLAIN, DECODER) if decoder else (TABLE, MODEL)
    own, joined = (
        ExampleSource(puzzles, seed=3) for puzzles in with_companions(make_task, recipe, model, along_share=share)
    )
    assert joined.steps_per_visit == pytest.approx(own.steps_per_visit / (1 - share))
    visits = 100
    offered = np.zeros(len(joined.examples))
    along = 0
    for step in range(round(visits * joined.steps_per_visit)):
        batch = joined.batch(step)
        is_companion = batch.examples >= len(own.examples)
        assert is_companion.all() or not is_companion.any()
        along += is_companion.all()
        np.add.at(offered, batch.examples, 1)
    assert along / (step + 1) == pytest.approx(share, abs=0.01)
    assert offered[: len(own.examples)] == pytest.approx(np.full(len(own.examples), visits), rel=0.2)
    by_companion = offered[len(own.examples) :].reshape(5, 6).sum(1)
    assert by_companion == pytest.approx(np.full(5, by_companion.mean()), rel=0.2)


@pytest.mark.parametrize(("recipe", "model"), [(TABLE, MODEL), (FACTORED, THREE_COLUMNS), (PLAIN, DECODER)])
def test_with_companions_all_else_keeps_its_place(make_task, recipe, model):
    own, joined = with_companions(make_task, recipe, model)
    assert np.array_equal(joined.identifiers()[: len(own.all_views)], own.identifiers())
    assert joined.row_names()[: own.num_rows] == own.row_names()
    assert joined.demonstrations.pairs[: len(own.demonstrations)] == own.demonstrations.pairs
    assert joined.tests is own.tests
    assert len(own.tasks) == 3 and own.num_companions == 0
    source, plain = ExampleSource(joined, seed=3), ExampleSource(own, seed=3)
    for bucket, same in zip(plain.buckets, source.buckets):
        assert (bucket.canvas, bucket.members.tolist()) == (same.canvas, same.members.tolist())
    views = joined.first_view[source.examples.puzzles]
    for step in range(40):
        batch = source.batch(step)
        assert np.array_equal(batch.packed, ExampleSource(joined, seed=3).batch(step).packed)
        assert (batch.views >= views[batch.examples]).all()
        assert (batch.views < joined.first_view[source.examples.puzzles[batch.examples] + 1]).all()


def test_companions_stand_in_no_other_context(make_task):
    recipe = dataclasses.replace(PLAIN, conditioning="few-shot", context_pairs=2)
    _, joined = with_companions(make_task, recipe, MODEL.conditioned(recipe))
    source = ExampleSource(joined, seed=0)
    owners = joined.demonstrations.puzzles
    batches = [source.batch(step) for step in range(20)]
    assert {owner >= 3 for batch in batches for owner in owners[batch.examples]} == {False, True}
    for batch in batches:
        shown = batch.contexts != NO_PAIR
        assert (np.where(shown, owners[batch.contexts] == owners[batch.examples][:, None], True)).all()


def test_batches_have_near_equal_token_counts():
    recipe = dataclasses.replace(TABLE, tokens_per_step=20_000, colour_permutations=100)
    source = ExampleSource(PuzzleSet(load_tasks("arc1-eval").tasks, recipe, MODEL, 0), 0)
    tokens = [size * bucket.area for size, bucket in zip(source.batch_sizes, source.buckets)]
    assert len(tokens) > 5
    assert min(tokens) > 0.95 * max(tokens)


def test_a_large_task_of_a_decoder_gets_no_recoloured_views(make_task):
    tasks = (make_task("small", [((3, 3), (3, 3))] * 2), make_task("large", [((3, 3), (3, 3)), ((3, 4), (3, 3))]))
    pair = 2 + 3 * 4 + 3 * 4  # tokens of 3 x 3 grids
    recipe = dataclasses.replace(PLAIN, colour_permutations=5, recoloured_tokens=2 * pair)

    def views(recipe, model):
        puzzles = PuzzleSet(tasks, recipe, model.conditioned(recipe), 0)
        return [len(of_task) - of_task.plain for of_task in puzzles.views]

    assert views(recipe, DECODER) == [5, 0]
    assert views(dataclasses.replace(recipe, recoloured_tokens=0), DECODER) == [5, 5]
    assert views(recipe, MODEL) == [5, 5]


def test_translation_moves_input_and_label_together_and_can_be_off(make_task):
    tasks = (make_task("t", [((2, 3), (4, 2))] * 3),)

    def made(**changes):
        source = ExampleSource(PuzzleSet(tasks, dataclasses.replace(TABLE, **changes), MODEL, 0), 0)
        return BatchMaker(source.puzzles, source.examples, CPU).make(source.batch(0))

    assert (made(translate=0.0, canvas="full").inputs.view(-1, 30, 30)[:, 0, 0] >= 2).all()
    moved = made(translate=1.0, canvas="full", tokens_per_step=900 * 50)
    corners = set()
    for tokens, labels in zip(moved.inputs, moved.labels):
        corner, other = (
            tuple(int(axis.min()) for axis in np.nonzero(b.view(30, 30).numpy() >= 2)) for b in (tokens, labels)
        )
        assert corner == other
        corners.add(corner)
    assert len(corners) > 20
    assert moved.cells is None  # the full canvas exists wholly, as published


def test_embedding_rows_do_not_overlap_and_are_named(make_task):
    tasks = some_tasks(make_task)
    table = PuzzleSet(tasks, TABLE, MODEL, 0)
    assert table.identifiers().ravel().tolist() == list(range(SHARED_ROWS, table.num_rows))
    assert len(table.row_names()) == table.num_rows
    with pytest.raises(InputError, match="factored"):
        PuzzleSet(tasks, FACTORED, MODEL, 0)


def test_factored_rows_name_the_task_the_transform_and_every_colour(make_task):
    factored = PuzzleSet(some_tasks(make_task), FACTORED, THREE_COLUMNS, 0)
    assert factored.row_names()[SHARED_ROWS:] == ["small", "wide", "full"]
    names, identifiers = factored.row_names(), factored.identifiers()
    for index in range(len(factored.all_views)):
        view = factored.all_views[index]
        assert names[identifiers[index][1]] == f"<dihedral {view.element}>"
        assert [names[row] for row in identifiers[index][2:]] == [
            f"<colour {c} to {view.colours[c]}>" for c in range(10)
        ]
    assert identifiers[:, 1].min() == FIRST_DIHEDRAL_ROW
    assert identifiers[:, 2:].min() == FIRST_COLOUR_ROW


def test_a_factored_table_does_not_grow_with_the_augmentations(make_task):
    def rows(recipe, model, count):
        recipe = dataclasses.replace(recipe, colour_permutations=count)
        return PuzzleSet(some_tasks(make_task), recipe, model, 0).num_rows

    assert rows(FACTORED, THREE_COLUMNS, 3) == rows(FACTORED, THREE_COLUMNS, 300) == SHARED_ROWS + 3
    assert rows(TABLE, MODEL, 300) > rows(TABLE, MODEL, 3) + 800


def test_a_model_with_too_small_a_canvas_is_refused(make_task):
    small = dataclasses.replace(MODEL, canvas_rows=5, canvas_cols=5)
    PuzzleSet((make_task("fits"),), TABLE, small, 0)
    with pytest.raises(InputError, match="task wide"):
        PuzzleSet(some_tasks(make_task), TABLE, small, 0)
