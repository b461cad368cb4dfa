"""Test how large a canvas each example gets."""

import numpy as np

from hrm_offline.data.canvas import SIDES, expected_output, make_buckets, needed_room
from hrm_offline.data.tasks import Pair, load_tasks


def room_of(task, with_output=False):
    return needed_room(task, task.test[0], with_output)


def test_room_never_depends_on_a_test_output(make_task):
    task = make_task(test=[((3, 3), (20, 20))])
    assert room_of(task) == room_of(task.without_labels()) == (3, 3)
    assert room_of(task, with_output=True) == (20, 20)


def test_room_follows_what_the_demonstrations_show(make_task):
    def room(train, test_input):
        return room_of(make_task(train=train, test=[(test_input, (1, 1))]))

    assert room([((2, 2), (6, 6)), ((3, 3), (9, 9))], (4, 3)) == (12, 10)  # three times as long
    assert room([((2, 2), (4, 4)), ((3, 3), (5, 5))], (5, 5)) == (7, 7)  # two more, not twice as many
    assert room([((2, 2), (6, 5)), ((8, 8), (6, 5))], (4, 4)) == (7, 5)  # always so long
    assert room([((2, 2), (6, 5)), ((8, 8), (6, 5))], (9, 4)) == (10, 5)  # and the input itself
    assert room([((3, 3), (30, 30))], (9, 9)) == (30, 30)
    assert room([((3, 3), (9, 9)), ((4, 4), (16, 16))], (5, 5)) == (26, 26)  # growing without a rule
    assert room([((8, 8), (3, 8)), ((9, 9), (6, 7))], (5, 5)) == (10, 12)  # no rule: half more than was seen


def test_a_rule_that_leaves_no_cell_of_an_input_is_none(make_task):
    shrinking = make_task(train=[((10, 4), (3, 4)), ((12, 4), (5, 4))], test=[((5, 4), (1, 1))])  # seven rows less
    assert expected_output(shrinking, shrinking.test[0]) == (8, 4)
    tenth = make_task(train=[((10, 4), (1, 4)), ((20, 4), (2, 4))], test=[((3, 4), (1, 1))])
    assert expected_output(tenth, tenth.test[0]) == (3, 4)


def test_room_is_the_same_for_a_demonstration_and_for_a_test_input_like_it(make_task):
    """Check that a canvas tells as much about an output when learning as when predicting."""
    for task in load_tasks("arc1-eval").tasks[:100]:
        for pair in task.train:
            as_test = Pair(pair.input, None)
            held = needed_room(task, pair, with_output=True)
            assert all(a >= b for a, b in zip(held, needed_room(task, as_test, with_output=False)))


def test_truth_fits_its_canvas_on_the_public_sets():
    """Count the test outputs that do not fit in their room on the canvas. LOG.md has the table."""
    cut_off, count = [], 0
    for name in ("arc1", "arc2"):
        for task in load_tasks(name).tasks:
            for pair in task.test:
                count += 1
                if any(np.array(pair.output.shape) > needed_room(task, pair, with_output=False)):
                    cut_off.append(task.id)
    assert count == 2078
    assert set(cut_off) <= {"bf45cf4b", "45a5af55"}


def test_shapes_are_few():
    assert len(SIDES) <= 12
    rooms = np.array([[a, b] for a in SIDES for b in SIDES])
    assert len(make_buckets(rooms, "tight", (30, 30))) == len(SIDES)
