"""Test the made-up families of tasks, and that a new family leaves the sets that exist as they are."""

import numpy as np
import pytest

from hrm_offline.common.errors import InputError
from hrm_offline.data.leaks import content_of
from hrm_offline.data.sets import load_set
from hrm_offline.data.synthetic import FAMILIES, FIRST_GENERATION, family, synthetic_tasks
from hrm_offline.data.tasks import MAX_SIDE, Pair, digest_of

# Sets by name and largest side. An artifact that was pretrained on one of them keeps the digest of its tasks.
DIGESTS = {
    ("synthetic-240", MAX_SIDE): "11d98a0c4ba75eb3ac1a6ff20975fe090c0b59ad613f80f89c6a76a0502a3de5",
    ("synthetic-240", 12): "4c4e88d401db5b98df6dd46d6542d94f507909eab62243327a2351bf4454f3bb",
    ("synthetic-240", 10): "f8b071663f5ff1f80294b5c64bedfea182c6c8c7d243b11a90ca9900165f7199",
    ("synthetic-96-sides-5", MAX_SIDE): "7cc368ed80cd1e899e8bad2325b438f027705db3e972c5475f9ecf634b4d8917",
    ("synthetic-60-only-tile,shift", MAX_SIDE): "55c2672cfbec2ca53cb1cde71f2715685d261ff7998a1525838a8db1e60b660a",
    ("synthetic-60-without-tile,shift", 10): "3f712719175ace086ffa165f9c03060d7652d63cfb16e7c26359ea0bf630533a",
}


@pytest.fixture
def corner_marked():
    """Add a family for the time of a test; returns its name."""

    @family
    def corner_marked(rng, max_side):
        """The upper left cell takes a colour."""
        colour = rng.integers(1, 10)

        def draw():
            grid = rng.integers(0, 10, rng.integers(2, max_side + 1, 2))
            answer = grid.copy()
            answer[0, 0] = colour
            return grid, answer

        return draw

    yield "corner_marked"
    del FAMILIES["corner_marked"]


@pytest.mark.parametrize(("name", "max_side"), DIGESTS)
def test_sets_have_the_tasks_that_they_always_had_though_a_family_is_new(corner_marked, name, max_side):
    assert corner_marked in FAMILIES
    assert digest_of(load_set(name, max_side).tasks) == DIGESTS[name, max_side]


def test_a_new_family_comes_by_name(corner_marked):
    tasks = load_set(f"synthetic-6-only-{corner_marked},tile", 9).tasks
    assert [task.id for task in tasks] == [
        f"synthetic-{name}-{i}" for i, name in enumerate((corner_marked, "tile") * 3)
    ]
    with pytest.raises(InputError, match=f"no family '{corner_marked}'"):  # it is not among those that take turns
        load_set(f"synthetic-6-without-{corner_marked}")


def test_a_family_never_takes_the_name_of_another():
    def tile(rng, max_side):
        raise AssertionError

    with pytest.raises(ValueError, match="'tile'"):
        family(tile)


def test_a_family_that_never_says_anything_is_an_error(monkeypatch):
    monkeypatch.setitem(FAMILIES, "same", lambda rng, max_side: lambda: (np.ones((2, 2)), np.ones((2, 2))))
    with pytest.raises(InputError, match="family 'same': drew no task"):
        load_set("synthetic-1-only-same")


def test_every_family_of_the_first_generation_has_one_turn():
    assert len(set(FIRST_GENERATION)) == len(FIRST_GENERATION) == 24
    assert [task.id.split("-")[1] for task in synthetic_tasks(24, 9)] == list(FIRST_GENERATION)


@pytest.mark.parametrize("max_side", [5, 10])
@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_makes_valid_tasks_that_say_something(name, max_side):
    for task in synthetic_tasks(4, max_side, families=(name,)):
        pairs = (*task.train, *task.test)
        assert task.id.startswith(f"synthetic-{name}-")
        assert len(task.train) >= 3
        assert all(
            grid.dtype == np.uint8 and grid.max() < 10 and min(grid.shape) >= 1 and max(grid.shape) <= max_side
            for pair in pairs
            for grid in (pair.input, pair.output)
        )
        assert any(not np.array_equal(pair.input, pair.output) for pair in pairs)
        assert len({content_of(Pair(pair.input, None)) for pair in pairs}) > 1


def test_made_up_tasks_depend_on_their_number_alone():
    few, many = synthetic_tasks(5, 12), synthetic_tasks(30, 12)
    for ours, theirs in zip(few, many):
        assert ours.id == theirs.id
        for a, b in zip((*ours.train, *ours.test), (*theirs.train, *theirs.test), strict=True):
            assert np.array_equal(a.input, b.input)
            assert np.array_equal(a.output, b.output)
