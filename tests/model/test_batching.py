"""Test that batches gathered on the device equal, bit for bit, the plain encoding of one grid."""

import dataclasses

import numpy as np
import pytest
import torch
from few_shot import few_shot
from grid_samples import GRIDS, VIEWS
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from kernels import DEVICE, needs_triton

from hrm_offline.common.tokens import IGNORE, PAD
from hrm_offline.config import ModelConfig, Recipe
from hrm_offline.data.augment import View, Views
from hrm_offline.data.context import NO_PAIR
from hrm_offline.data.grids import crop, encode
from hrm_offline.data.puzzles import Batch, ExampleSource, PuzzleSet
from hrm_offline.data.sets import rehearsal_tasks
from hrm_offline.data.tasks import Pair, Task, load_tasks
from hrm_offline.model.batching import BatchMaker
from hrm_offline.ops import dispatch


def test_a_sequence_is_its_context_turned_like_the_input_and_then_the_input():
    puzzles = few_shot(rehearsal_tasks(30)[:6], colour_permutations=4, tokens_per_step=3000)
    source = ExampleSource(puzzles, seed=0)
    maker = BatchMaker(puzzles, source.examples, torch.device("cpu"))
    for step in range(10):
        batch = source.batch(step)
        made = maker.make(batch)
        for row, tokens in zip(batch.plan, made.inputs.numpy()):
            view = puzzles.all_views[row[1]]
            pairs = [puzzles.demonstrations.pairs[c] for c in row[4:] if c != NO_PAIR]
            shown = [grid for pair in pairs for grid in (pair.input, pair.output)]
            expected = [encode(view.apply(grid), batch.canvas) for grid in shown]
            expected += [np.full(batch.canvas[0] * batch.canvas[1], PAD)] * (4 - len(shown))
            expected.append(encode(view.apply(source.examples.pairs[row[0]].input), batch.canvas))
            assert np.array_equal(tokens, np.concatenate(expected))


RECIPE = Recipe(colour_permutations=20, tokens_per_step=2000)


def maker_of(pairs: list[Pair], views: list[View]) -> BatchMaker:
    puzzles = PuzzleSet((Task("t", tuple(pairs), tuple(pairs)),), RECIPE, ModelConfig(), 0)
    puzzles.all_views = Views(
        np.array([v.element for v in views], dtype=np.uint8), np.array([v.colours for v in views], dtype=np.uint8), 0
    )
    return BatchMaker(puzzles, puzzles.demonstrations, DEVICE)


@pytest.mark.parametrize("mode", ["reference", pytest.param("triton", marks=needs_triton)])
@given(GRIDS, GRIDS, VIEWS, st.data())
@settings(max_examples=100, deadline=None)
def test_encoding_by_gather_equals_encoding_the_transformed_grid(mode, grid, output, view, data):
    maker = maker_of([Pair(output, grid), Pair(grid, output)], [View(3), view])
    shapes = np.array([view.apply(g).shape for g in (grid, output)])
    rows, cols = shapes.max(0).tolist()
    canvas = (data.draw(st.integers(rows, 30)), data.draw(st.integers(cols, 30)))
    corner = (data.draw(st.integers(0, canvas[0] - rows)), data.draw(st.integers(0, canvas[1] - cols)))
    with dispatch.override(mode):
        made = maker.make(Batch(0, canvas, np.array([[1, 1, *corner]], dtype=np.int32)))
    assert np.array_equal(made.inputs[0].cpu().numpy(), encode(view.apply(grid), canvas, corner))
    labels = encode(view.apply(output), canvas, corner).astype(np.int64)
    assert np.array_equal(made.labels[0].cpu().numpy(), np.where(labels == PAD, IGNORE, labels))


@given(arrays(np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=st.integers(0, 11)), VIEWS)
@settings(max_examples=200, deadline=None)
def test_reading_by_gather_equals_crop_and_invert(board, view):
    maker = maker_of([Pair(board % 10, board % 10)], [View(5), view])
    read(maker, board.ravel(), view, (0, 0), board.shape)


@given(GRIDS, VIEWS, st.data())
@settings(max_examples=100, deadline=None)
def test_a_grid_comes_back_from_its_view_and_place(grid, view, data):
    maker = maker_of([Pair(grid, grid)], [View(5), view])
    shown = view.apply(grid)
    corner = tuple(data.draw(st.integers(0, 30 - side)) for side in shown.shape)
    assert np.array_equal(read(maker, encode(shown, (30, 30), corner), view, corner, (30, 30)), grid)


def read(maker, tokens, view, corner, canvas):
    """Read the grid that tokens show under view number 1 from a corner on, and compare it with the plain way."""
    sides, cells = maker.read(
        torch.from_numpy(tokens.astype(np.int32))[None].to(DEVICE),
        torch.tensor([1], device=DEVICE),
        torch.tensor([corner], device=DEVICE),
        canvas,
    )
    (rows, cols), cells = sides[0].tolist(), cells[0].cpu().numpy()
    board = np.zeros(canvas, dtype=np.uint8)
    board[: canvas[0] - corner[0], : canvas[1] - corner[1]] = tokens.reshape(canvas)[corner[0] :, corner[1] :]
    expected = view.invert(crop(board.ravel(), canvas))
    assert (rows, cols) == expected.shape
    assert np.array_equal(cells[:rows, :cols], expected)
    assert cells.sum() == expected.sum()  # zero outside
    return expected


def test_every_row_of_real_batches_equals_the_plain_way():
    tasks = load_tasks("arc1-eval").tasks[:40]
    for recipe in (RECIPE, dataclasses.replace(RECIPE, canvas="full")):
        source = ExampleSource(PuzzleSet(tasks, recipe, ModelConfig(), 0), 0)
        maker = BatchMaker(source.puzzles, source.examples, DEVICE)
        for step in range(20):
            batch = source.batch(step)
            made = maker.make(batch)
            for row, tokens in zip(batch.plan, made.inputs.cpu().numpy()):
                pair, view = source.examples.pairs[row[0]], source.puzzles.all_views[row[1]]
                assert np.array_equal(tokens, encode(view.apply(pair.input), batch.canvas, tuple(row[2:])))


def test_test_inputs_have_no_labels(make_task):
    task = make_task("t").without_labels()
    puzzles = PuzzleSet((task,), RECIPE, ModelConfig(), 0)
    made = BatchMaker(puzzles, puzzles.tests, DEVICE).make(Batch(0, (4, 4), np.zeros((1, 4), dtype=np.int32)))
    assert made.labels is None
    assert np.array_equal(made.inputs[0].cpu().numpy(), encode(task.test[0].input, (4, 4)))
