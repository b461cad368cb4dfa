"""Learn companions along with the tasks to be answered: their puzzles, and where their embeddings start."""

from __future__ import annotations

from collections.abc import Callable

from hrm_offline.common.errors import InputError
from hrm_offline.config import AdaptConfig, ModelConfig
from hrm_offline.data.companions import Companions
from hrm_offline.data.puzzles import PuzzleSet
from hrm_offline.model.artifact import Artifact, KeptRows
from hrm_offline.model.network import Network


class CompanionPuzzles:
    """The puzzles of companions, for a network and a recipe.

    `companions` are those that fit the network's canvas. Their embeddings start as the `artifact` has learned them,
    where it keeps them, and else as those of new puzzles do. `say` takes a warning where it keeps some that cannot be
    used.
    """

    def __init__(
        self,
        companions: Companions,
        recipe: AdaptConfig,
        model: ModelConfig,
        artifact: Artifact | None,
        say: Callable[[str], None],
    ):
        self.companions = companions.fitting(min(model.canvas_rows, model.canvas_cols))
        self.recipe, self.model, self.say = recipe, model, say
        self._kept = self._kept_rows(artifact)
        self._puzzles: PuzzleSet | None = None

    def join(self, puzzles: PuzzleSet) -> PuzzleSet:
        """Return the puzzles to learn: the given ones, and after them the companions, if there are any."""
        if not self.companions.tasks:
            return puzzles
        return puzzles.with_companions(self._puzzles_of(puzzles.seed))

    def start_embeddings(self, network: Network, learned: PuzzleSet, first: int) -> None:
        """Let the companions' rows of the embedding table, from row `first` on, start where they should.

        `learned` is what `join` has returned, and the network is a new one for it.
        """
        if self._kept is None:
            return
        try:
            self._kept.fill(network.puzzle_emb.weights, learned.row_names()[first:], first)
        except InputError as error:
            self._warn(error)

    def _puzzles_of(self, seed: int) -> PuzzleSet:
        """Return the companions' puzzles, whose views depend on the seed. Those of the last seed are remembered."""
        if self._puzzles is None or self._puzzles.seed != seed:
            self._puzzles = PuzzleSet(self.companions.tasks, self.recipe, self.model, seed)
        return self._puzzles

    def _kept_rows(self, artifact: Artifact | None) -> KeptRows | None:
        if artifact is None or not self.companions.tasks:
            return None
        try:
            return KeptRows(artifact)
        except InputError as error:
            return self._warn(error)

    def _warn(self, error: InputError) -> None:
        self.say(f"WARNING: tasks that are learned along start with new embeddings: {error}")
