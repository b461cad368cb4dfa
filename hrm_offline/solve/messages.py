"""What the supervising process and its workers tell one another. Plain data; times are in seconds on a clock
that they share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from hrm_offline.answers.vote import BatchKey, Votes
from hrm_offline.config import AdaptConfig, ModelConfig


class State(Enum):
    """What a worker does between two steps."""

    BUSY = 1
    IDLE = 2


# ----- to a worker


@dataclass(frozen=True)
class Setup:
    """What a worker needs to know before any job. The first worker of a run finds `model` and `recipe`
    None and chooses them, and with `bundled` the package's own artifact if no other is given. `folder` is where
    adapted networks and states are kept."""

    challenges: Path
    folder: Path
    seed: int
    device: str | None
    dtype: str | None = None
    threads: int | None = None
    artifact: Path | None = None
    bundled: bool = False
    preset: str | None = None
    overrides: Mapping[str, object] = field(default_factory=dict)
    seconds_per_task: float = 0.0
    save_every: float = 60.0
    model: ModelConfig | None = None
    recipe: AdaptConfig | None = None


@dataclass(frozen=True)
class Adapt:
    """Adapt to a group of tasks (their indices in file order) until a time at the latest. An attempt after a
    failure may come with smaller parts of a batch and slower learning. `rank` of `size` workers that meet at
    the file `meeting` learn one group together."""

    group: int
    tasks: tuple[int, ...]
    until: float
    parts: int = 1
    lr_scale: float = 1.0
    rank: int = 0
    size: int = 1
    meeting: str = ""


@dataclass(frozen=True)
class Predict:
    """Predict batches (by number) of a round of a group's plan, and none that would end after `until`."""

    group: int
    tasks: tuple[int, ...]
    round: int
    batches: tuple[int, ...]
    until: float


@dataclass(frozen=True)
class Until:
    """The adaptation that is going on shall end at another time."""

    time: float


@dataclass(frozen=True)
class Quit:
    """There is nothing more to do."""


# ----- from a worker


@dataclass(frozen=True)
class Hello:
    """A worker is ready: what it computes on and with, and how long a canvas token takes to predict.

    `artifact` is where the network comes from and `artifact_digest` what was found there, both None for random
    weights. `warning` says what of the request could not be had.
    """

    device: str
    gpus: int
    model: ModelConfig
    recipe: AdaptConfig
    artifact: str | None
    artifact_digest: str | None
    reason: str
    seconds_per_token: float
    threads: int
    operations: str
    versions: dict[str, str]
    warning: str | None = None


@dataclass(frozen=True)
class Say:
    """A line for the user."""

    text: str


@dataclass(frozen=True)
class Beat:
    """The worker lives; in adaptation also how far it is and how many times slower steps became."""

    step: int = 0
    total: int = 0
    loss: float | None = None
    slowdown: float = 1.0


@dataclass(frozen=True)
class Adapted:
    """A group is adapted; `report` as JSON. `saved` tells whether other workers can load the network, and
    `crc` is the checksum of its file."""

    group: int
    report: dict
    saved: bool
    crc: int


@dataclass(frozen=True, eq=False)
class Voted:
    """The votes of one batch, and the seconds it took."""

    key: BatchKey
    votes: Votes
    tokens: int
    seconds: float


@dataclass(frozen=True)
class Done:
    """The job has ended, whether whole or out of time."""


@dataclass(frozen=True)
class Failed:
    """The worker could not go on and has ended. `kind` is "memory", "diverged", "input" or "error"."""

    kind: str
    reason: str


@dataclass(frozen=True)
class Lost:
    """The worker's process is gone without a word."""

    reason: str = "its process ended"
