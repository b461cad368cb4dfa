"""Test which demonstrations stand in a sequence's context."""

from few_shot import few_shot

from hrm_offline.data.context import NO_PAIR
from hrm_offline.data.puzzles import ExampleSource
from hrm_offline.data.sets import rehearsal_tasks


def test_a_context_holds_other_demonstrations_of_the_same_task():
    puzzles = few_shot(rehearsal_tasks(30)[:6], pairs=3, tokens_per_step=5000)
    source = ExampleSource(puzzles, seed=0)
    seen = set()
    for step in range(20):
        for example, *_, first, second, third in source.batch(step).plan.tolist():
            context = [c for c in (first, second, third) if c != NO_PAIR]
            owner = source.examples.puzzles[example]
            assert example not in context
            assert len(set(context)) == len(context) == min(3, len(puzzles.tasks[owner].train) - 1)
            assert all(puzzles.demonstrations.puzzles[c] == owner for c in context)
            seen.add((first, second))
    assert any((b, a) in seen for a, b in seen)  # the order varies
