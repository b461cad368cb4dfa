import dataclasses

import numpy as np
import pytest

from hrm_offline.config import AdaptConfig, ModelConfig, Recipe
from hrm_offline.data.grids import crop
from hrm_offline.data.puzzles import (
    FIRST_DIHEDRAL_ROW,
    SHARED_ROWS,
    ExampleSource,
    PuzzleSet,
    make_buckets,
    needed_side,
)
from hrm_offline.data.tasks import load_tasks
from hrm_offline.errors import InputError
from hrm_offline.tokens import IGNORE, PAD

TABLE = Recipe(tokens_per_step=400, colour_permutations=3, translate=0.5)
FACTORED = dataclasses.replace(TABLE, conditioning="factored")
MODEL = ModelConfig()
TWO_COLUMNS = dataclasses.replace(MODEL, puzzle_columns=2)


def some_tasks(make_task):
    return (
        make_task("small", seed=1),
        make_task("wide", [((2, 9), (4, 6))] * 2, [((2, 8), (4, 7)), ((3, 3), (4, 4))], seed=2),
        make_task("full", [((30, 30), (30, 30))], [((30, 30), (30, 30))], seed=3),
    )


def test_every_task_is_in_one_bucket_that_holds_its_grids(make_task):
    tasks = some_tasks(make_task)
    buckets = make_buckets(tasks, "tight", (30, 30))
    assert sorted(p for b in buckets for p in b.puzzles) == [0, 1, 2]
    for bucket in buckets:
        for puzzle in bucket.puzzles:
            side = needed_side(tasks[puzzle])
            assert side <= min(bucket.canvas)
            assert side == 30 or side + 1 <= min(bucket.canvas)  # room for the EOS edge
    assert [b.canvas for b in make_buckets(tasks, "full", (30, 30))] == [(30, 30)]


def test_needed_side_never_looks_at_a_test_output(make_task):
    task = make_task(test=[((3, 3), (20, 20))])
    assert needed_side(task) == needed_side(task.without_labels()) == 3


def test_needed_side_follows_a_constant_scale_to_larger_test_inputs(make_task):
    assert needed_side(make_task(train=[((2, 2), (6, 6)), ((3, 3), (9, 9))], test=[((4, 4), (12, 12))])) == 12
    assert needed_side(make_task(train=[((2, 2), (6, 6)), ((8, 8), (6, 6))], test=[((4, 4), (6, 6))])) == 8
    assert needed_side(make_task(train=[((3, 3), (30, 30))], test=[((9, 9), (30, 30))])) == 30
    frames = [((2, 2), (4, 4)), ((3, 3), (5, 5))]  # two more, not twice as many
    assert needed_side(make_task(train=frames, test=[((5, 5), (7, 7))])) == 7
    squares = [((3, 3), (9, 9)), ((4, 4), (16, 16))]
    assert needed_side(make_task(train=squares, test=[((5, 5), (25, 25))])) == 25


@pytest.mark.parametrize(("recipe", "model"), [(TABLE, MODEL), (FACTORED, TWO_COLUMNS)])
def test_batches_hold_whole_examples_with_the_right_embedding_rows(make_task, recipe, model):
    puzzles = PuzzleSet(some_tasks(make_task), recipe, model, seed=0)
    source = ExampleSource(puzzles, seed=5)
    seen = set()
    for step in range(60):
        batch = source.batch(step)
        bucket = puzzles.buckets[batch.bucket]
        assert batch.canvas == bucket.canvas
        assert len(batch.inputs) == max(1, recipe.tokens_per_step // bucket.area)
        for tokens, labels, ids in zip(batch.inputs, batch.labels, batch.puzzle_identifiers):
            puzzle, view = example_of(puzzles, bucket, ids)
            pairs = {(p.input.tobytes(), p.output.tobytes()) for p in puzzles.tasks[puzzle].train}
            grids = [view_free(puzzles, puzzle, view, t, bucket.canvas)
                     for t in (tokens, np.where(labels == IGNORE, PAD, labels))]
            assert any(tuple(g.tobytes() for g in option) in pairs for option in zip(*grids))
            seen.add(puzzle)
    assert seen == {0, 1, 2}


def example_of(puzzles, bucket, ids):
    """Puzzle and the views that embedding rows can stand for."""
    puzzle = next(p for p in bucket.puzzles if puzzles.first_row[p] <= ids[0] < puzzles.first_row[p + 1])
    views = puzzles.views[puzzle]
    if len(ids) == 1:
        return puzzle, [views[ids[0] - puzzles.first_row[puzzle]]]
    return puzzle, [v for v in views if v.element == ids[1] - FIRST_DIHEDRAL_ROW]


def view_free(puzzles, puzzle, views, tokens, canvas):
    """The grid wherever it stands on the canvas, under each possible view."""
    board = tokens.reshape(canvas)
    rows, cols = np.nonzero(board >= 2)
    moved = board[rows.min() :, cols.min() :]
    return [view.invert(crop(moved, moved.shape)) for view in views]


def test_a_batch_depends_on_seed_and_step_alone(make_task):
    puzzles = PuzzleSet(some_tasks(make_task), TABLE, MODEL, seed=0)
    one, other = ExampleSource(puzzles, seed=5), ExampleSource(puzzles, seed=5)
    one.batch(3)
    assert np.array_equal(one.batch(7).inputs, other.batch(7).inputs)
    steps = range(20)
    assert any(one.batch(s).inputs.tobytes() != ExampleSource(puzzles, seed=6).batch(s).inputs.tobytes() for s in steps)


def test_buckets_take_turns_in_proportion_to_their_work(make_task):
    tasks = (*(make_task(f"s{i}", seed=i) for i in range(6)), make_task("l", [((9, 9), (9, 9))] * 3, seed=9))
    source = ExampleSource(PuzzleSet(tasks, TABLE, MODEL, 0), seed=0)
    counts = np.bincount([source.batch(s).bucket for s in range(1000)], minlength=2)
    expected = np.array([18 / (400 // 16), 3 / (400 // 100)])
    assert np.allclose(counts / 1000, expected / expected.sum(), atol=0.01)
    assert source.steps_a_visit == pytest.approx(expected.sum())


def test_translation_moves_input_and_label_together_and_can_be_off(make_task):
    tasks = (make_task("t", [((2, 3), (4, 2))] * 3),)
    still = dataclasses.replace(TABLE, translate=0.0, canvas="full")
    batch = ExampleSource(PuzzleSet(tasks, still, MODEL, 0), 0).batch(0)
    assert (batch.inputs.reshape(-1, 30, 30)[:, 0, 0] >= 2).all()
    moving = dataclasses.replace(TABLE, translate=1.0, canvas="full", tokens_per_step=900 * 50)
    batch = ExampleSource(PuzzleSet(tasks, moving, MODEL, 0), 0).batch(0)
    corners = set()
    for tokens, labels in zip(batch.inputs, batch.labels):
        corner, other = (tuple(axis.min() for axis in np.nonzero(b.reshape(30, 30) >= 2)) for b in (tokens, labels))
        assert corner == other
        corners.add(corner)
    assert len(corners) > 20


def test_embedding_rows_do_not_overlap_and_are_named(make_task):
    tasks = some_tasks(make_task)
    table = PuzzleSet(tasks, TABLE, MODEL, 0)
    rows = [row for p in range(3) for v in range(len(table.views[p])) for row in table.identifiers(p, v)]
    assert rows == list(range(SHARED_ROWS, table.num_rows))
    assert len(table.row_names()) == table.num_rows
    factored = PuzzleSet(tasks, FACTORED, TWO_COLUMNS, 0)
    assert factored.num_rows == SHARED_ROWS + 3
    assert factored.row_names()[SHARED_ROWS:] == ["small", "wide", "full"]
    with pytest.raises(InputError, match="factored"):
        PuzzleSet(tasks, FACTORED, MODEL, 0)


def test_a_model_with_too_small_a_canvas_is_refused(make_task):
    small = dataclasses.replace(MODEL, canvas_rows=5, canvas_cols=5)
    PuzzleSet((make_task("fits"),), TABLE, small, 0)
    with pytest.raises(InputError, match="task wide"):
        PuzzleSet(some_tasks(make_task), TABLE, small, 0)


def test_truth_fits_its_canvas_on_the_public_sets():
    """How often a test output would be cut off; the limit is what was measured (see LOG.md)."""
    tasks = load_tasks("arc1").tasks
    buckets = make_buckets(tasks, AdaptConfig().canvas, (30, 30))
    canvas = {p: min(b.canvas) for b in buckets for p in b.puzzles}
    outputs = [(i, pair.output) for i, task in enumerate(tasks) for pair in task.test]
    cut_off = [tasks[i].id for i, output in outputs if max(output.shape) > canvas[i]]
    assert len(cut_off) <= 0.005 * len(outputs)
