"""Test the fallback submission, and how votes replace it."""

import numpy as np
from ballots import EMPTY, A, B, C, entry, grid, pool, task

from hrm_offline.answers.submission import build_submission, fallback_submission
from hrm_offline.data.tasks import BadTask, TaskSet, load_tasks


def test_null_truth_of_the_default_rehearsal():
    """Load a public set as hidden tasks: the fallback is complete without any label."""
    tasks = tuple(task.without_labels() for task in load_tasks("arc2-eval").tasks)
    fallback = fallback_submission(TaskSet("arc2-eval", tasks))
    assert sum(len(entries) for entries in fallback.values()) == 167
    assert all(np.array(e[a]).ndim == 2 for entries in fallback.values() for e in entries for a in e)


def test_fallback_is_the_two_commonest_outputs_else_the_input():
    fallback = fallback_submission(TaskSet("x", (task([B, C, C, A]),), (BadTask("bad", "why", 2),)))
    assert fallback["t"] == [entry(C, B)]
    assert fallback["bad"] == [entry(grid([0]), grid([0]))] * 2
    assert fallback_submission(TaskSet("x", (task([B, B], tests=(C, B)),)))["t"] == [entry(B, C), entry(B, B)]


def test_votes_replace_the_fallback_with_two_different_attempts():
    fallback = fallback_submission(TaskSet("x", (task([A, B], tests=(A, A, A, A)),)))
    submission = build_submission(
        fallback,
        {
            ("t", 0): pool((C, 0.5), (C, 0.5), (B, 0.9)),
            ("t", 1): pool((C, 0.5)),
            ("t", 2): pool((A, 0.5)),
        },
    )
    assert submission["t"] == [entry(C, B), entry(C, A), entry(A, B), entry(A, B)]
    assert build_submission(fallback, {("t", 0): pool((EMPTY, 1.0))}) == fallback
