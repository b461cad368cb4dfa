"""Number the networks of a run: one per group of tasks, and further members of other seeds where time is left.

Group g of G has its first member under number g, the second under G + g, and so on. The journal, the files of networks
and the votes go by these numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

from hrm_offline.config import MAX_SEED

# Far apart, so that the members of one run are never the first members of a run with a seed that a person gives.
_SEED_STEP = 2**32


def member_seed(seed: int, member: int) -> int:
    """Return the seed of a group's member in a run of a seed. The first member, number 0, has the run's own seed."""
    return (seed + member * _SEED_STEP) % (MAX_SEED + 1)


@dataclass(frozen=True)
class Roster:
    """The groups of tasks of a run, as indices in file order, and its seed."""

    groups: list[tuple[int, ...]]
    seed: int

    def tasks(self, number: int) -> tuple[int, ...]:
        """Return the tasks of a network by its number."""
        return self.groups[number % len(self.groups)]

    def member(self, number: int) -> int:
        """Return which member of its group a network is, from 0 on."""
        return number // len(self.groups)

    def seed_of(self, number: int) -> int:
        """Return the seed of a network by its number."""
        return member_seed(self.seed, self.member(number))
