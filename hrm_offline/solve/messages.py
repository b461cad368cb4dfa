"""Messages between the supervising process and its workers.

They are plain data, so that they can be pickled between processes. Times are in seconds on a clock that both share.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import numpy as np

from hrm_offline.answers.vote import BatchKey, Votes
from hrm_offline.config import AdaptConfig, ModelConfig
from hrm_offline.data.tasks import Task
from hrm_offline.predict.plan import ROWS_PER_STEP
from hrm_offline.solve.options import SolveOptions

BEAT_SECONDS = 1.0  # between two signs of life of a process


class Activity(Enum):
    """Say whether a worker computes or waits for a message."""

    BUSY = 1
    IDLE = 2


# ----- to a worker


@dataclass(frozen=True)
class NetworkChoice:
    """The network that a run adapts and the recipe that adapts it.

    `artifact` is the folder of the pretrained weights, or None for random weights.
    """

    model: ModelConfig
    recipe: AdaptConfig
    artifact: Path | None


@dataclass(frozen=True)
class Setup:
    """Tell a worker all that it needs to know before its first job.

    `options` are the user's; their `device` and `dtype` are this worker's. `folder` keeps adapted networks and saved
    states. `seconds_per_task` is the budget divided by the number of tasks. The first worker of a run gets no
    `network` and chooses one; the others get its choice and its `rows_per_step` (see `Hello`). `past` is the identity
    of the run that goes on, as in its journal: its network is chosen again whatever time and devices there are. With
    `plain_operations` PyTorch serves every operation: a kernel has cost a worker its device before.
    """

    options: SolveOptions
    folder: Path
    seconds_per_task: float
    network: NetworkChoice | None = None
    past: dict | None = None
    rows_per_step: float | None = None
    plain_operations: bool = False


@dataclass(frozen=True)
class Adapt:
    """Ask a worker to adapt to a group of tasks and to end before the time `until`.

    `group` is the number of the network: further members have numbers of their own (see `solve.members`). `tasks` are
    indices in file order. After a failure the next attempt may split each batch into more `parts` or multiply the
    learning rate by `lr_scale`. If `size` workers learn the group together, `rank` numbers them and `meeting` is the
    file where they meet. `member` says which of the networks on these tasks this is. The other jobs name a network in
    the same way.
    """

    group: int
    tasks: tuple[int, ...]
    until: float
    parts: int = 1
    lr_scale: float = 1.0
    rank: int = 0
    size: int = 1
    meeting: str = ""
    member: int = 0


@dataclass(frozen=True)
class Predict:
    """Ask a worker to predict some batches of one round of a group's prediction plan.

    `batches` are numbers of batches in the round. The worker leaves out a batch that would end after `until`.
    """

    group: int
    tasks: tuple[int, ...]
    round: int
    batches: tuple[int, ...]
    until: float
    member: int = 0


@dataclass(frozen=True, eq=False)
class Judge:
    """Ask a worker for the scores of candidates, by the network of a group.

    `tests` are indices into the group's test inputs, in order, and `grids` the candidate for each of them. The worker
    leaves out those for which the time `until` does not suffice.
    """

    group: int
    tasks: tuple[int, ...]
    tests: tuple[int, ...]
    grids: tuple[np.ndarray, ...]
    until: float
    member: int = 0


@dataclass(frozen=True)
class Threads:
    """Compute with so many CPU threads from now on, because other workers share the CPU."""

    number: int


@dataclass(frozen=True)
class Until:
    """Move the end of the adaptation that is going on."""

    time: float


@dataclass(frozen=True)
class Quit:
    """End the worker."""


# ----- from a worker


@dataclass(frozen=True)
class Along:
    """Say what a worker learns along with each group, and what is left out of the sets that were asked for.

    `tasks` and `pairs` count what is learned, and `digest` is a fingerprint of it. `left_out` has the reasons by task
    id, and `repeated` counts tasks that repeat others. `words` tell the user.
    """

    tasks: int
    pairs: int
    digest: str
    left_out: dict[str, str]
    repeated: int
    words: str


@dataclass(frozen=True)
class Hello:
    """Say that a worker is ready, what it computes on, and which network it adapts.

    `seconds_per_cost` is the measured time of prediction per unit of cost (see `PredictionPlan.cost_of`), and
    `rows_per_step` the cost of a decoder's step in rows (see `PredictionPlan`).
    `artifact_digest` is the SHA-256 of the pretrained weights, or None for random weights. `reason` says why this
    network was chosen. `warning` names a wish of the user that could not be met. `selftest` holds the self-test of the
    operations on a GPU, as JSON. `memory` is the most bytes that the worker has held so far, or 0 where nobody knows.
    `along` is None where nothing was asked to be learned along.
    """

    device: str
    gpus: int
    network: NetworkChoice
    artifact_digest: str | None
    reason: str
    seconds_per_cost: float
    threads: int
    operations: str
    versions: dict[str, str]
    warning: str | None = None
    selftest: dict | None = None
    memory: int = 0
    along: Along | None = None
    rows_per_step: float = ROWS_PER_STEP


@dataclass(frozen=True)
class Say:
    """Show the user a line."""

    text: str


@dataclass(frozen=True)
class Demoted:
    """Say that plain PyTorch serves an operation from now on, and why."""

    op: str
    reason: str


@dataclass(frozen=True)
class GraphsChosen:
    """Say whether CUDA graphs serve from now on, and why. `work` is "adapt" or "predict"."""

    work: str
    choice: str


@dataclass(frozen=True)
class Beat:
    """Say that the worker lives. During an adaptation it also tells its progress.

    `total` is the number of steps that the worker expects to take. `slowdown` says how many times slower steps have
    become. `examples` counts those learned so far.
    """

    step: int = 0
    total: int = 0
    examples: int = 0
    loss: float | None = None
    slowdown: float = 1.0


@dataclass(frozen=True)
class Adapted:
    """Say that a group is adapted.

    `report` is an `AdaptReport` as JSON, with the "seconds" that an unbroken adaptation takes. `saved` tells whether
    other workers can load the network. `crc` is the checksum of its file.
    """

    group: int
    report: dict
    saved: bool
    crc: int


@dataclass(frozen=True, eq=False)
class Voted:
    """Hand over the votes of one batch, its canvas tokens, and the seconds that it took."""

    key: BatchKey
    votes: Votes
    tokens: int
    seconds: float


@dataclass(frozen=True, eq=False)
class Judged:
    """Hand over the scores of some candidates: `votes` has them in the place of confidences."""

    group: int
    votes: Votes


@dataclass(frozen=True)
class Done:
    """Say that the job has ended, finished or out of time."""


@dataclass(frozen=True)
class Failed:
    """Say that the worker could not go on and has ended.

    `kind` is "memory", "diverged", "input", "device" (the GPU refuses every further call) or "error".
    """

    kind: str
    reason: str


@dataclass(frozen=True)
class Lost:
    """Say that the worker's process is gone without a word. The pool sends this in its place.

    `started` is False where the system has not even started the process.
    """

    reason: str = "its process ended"
    started: bool = True


# ----- between the supervising process and a process that searches programs


@dataclass(frozen=True)
class SearchTask:
    """Ask for the programs of a task, which has the number `index` in file order. The task has no test outputs."""

    index: int
    task: Task
    effort: int


@dataclass(frozen=True)
class Searching:
    """Say that a search goes on."""


@dataclass(frozen=True)
class Searched:
    """Hand over the candidates for a task's test inputs, as a candidates file has them, and the CPU seconds spent."""

    index: int
    entries: list
    seconds: float
