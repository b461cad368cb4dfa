"""Plan a run by the network that its first worker has chosen: which tasks suit it, and in which groups."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence

import numpy as np

from hrm_offline import __version__
from hrm_offline.common.errors import InputError
from hrm_offline.data.puzzles import PuzzleSet
from hrm_offline.data.tasks import Task, digest_of
from hrm_offline.solve.messages import Hello, NetworkChoice
from hrm_offline.solve.options import SolveOptions


def unsuited_tasks(tasks: Sequence[Task], network: NetworkChoice, seed: int) -> dict[str, str]:
    """Return the tasks that do not fit the network, by id, each with the reason."""
    reasons = {}
    for task in tasks:
        try:
            _plain_puzzles((task,), network, seed)
        except InputError as error:
            reasons[task.id] = str(error)
    return reasons


def make_groups(
    tasks: Sequence[Task], suited: list[int], network: NetworkChoice, seed: int, number: int
) -> list[tuple[int, ...]]:
    """Split the `suited` tasks, indices in file order, into at most `number` groups (see `split_tasks`)."""
    puzzles = _plain_puzzles(tuple(tasks[i] for i in suited), network, seed)
    return [tuple(suited[i] for i in group) for group in split_tasks(puzzles, number)]


def _plain_puzzles(tasks: tuple[Task, ...], network: NetworkChoice, seed: int) -> PuzzleSet:
    """Return the puzzle set of some tasks without recoloured views and embeddings.

    These take time to make, and decide neither whether a task fits nor how much it costs.
    """
    recipe = dataclasses.replace(network.recipe, colour_permutations=0)
    return PuzzleSet(tasks, recipe, dataclasses.replace(network.model, puzzle_columns=0), seed)


def task_costs(puzzles: PuzzleSet) -> np.ndarray:
    """Return the cost of one visit of each task, float64 [tasks]: the canvas cells of all its demonstrations.

    Both the groups and their shares of the time follow this number.
    """
    costs = np.zeros(len(puzzles.tasks))
    for bucket in puzzles.buckets(puzzles.demonstrations):
        owners = puzzles.demonstrations.puzzles[bucket.members]
        np.add.at(costs, owners, bucket.area)
    return costs


def split_tasks(puzzles: PuzzleSet, groups: int) -> list[tuple[int, ...]]:
    """Split the tasks of a puzzle set into at most `groups` groups of near-equal cost.

    The most expensive task comes first, and each task goes to the group that costs least so far. Return the most
    expensive group first, with the tasks of a group in file order.
    """
    costs = task_costs(puzzles)
    groups = min(groups, len(costs))
    members: list[list[int]] = [[] for _ in range(groups)]
    sums = np.zeros(groups)
    for task in np.argsort(-costs, kind="stable").tolist():
        cheapest = int(sums.argmin())
        members[cheapest].append(task)
        sums[cheapest] += costs[task]
    return [tuple(sorted(members[group])) for group in np.argsort(-sums, kind="stable").tolist()]


def run_identity(tasks: tuple[Task, ...], hello: Hello, options: SolveOptions) -> dict:
    """Return all that must be equal for a run to go on from a journal, as JSON.

    The identity of an artifact is its bytes, and not the folder where it lies, and so it is with tasks learned along.
    CUDA graphs change no answer, nor does a share of nothing.
    """
    recipe = dataclasses.asdict(hello.network.recipe)
    del recipe["cuda_graphs"], recipe["along"]
    if hello.along is None:
        del recipe["along_share"]
    identity = {
        "version": __version__,
        "challenges": digest_of(tasks),
        "seed": options.seed,
        "model": dataclasses.asdict(hello.network.model),
        "recipe": recipe,
        "artifact": hello.artifact_digest,
        "sharing": options.sharing,
    }
    if hello.along is not None:
        identity["along"] = hello.along.digest
    return json.loads(json.dumps(identity))  # tuples become lists, as in the journal
