"""Carry what the user asks of `solve` from the command line to the workers. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hrm_offline.common.settings import check, from_dict, setting
from hrm_offline.config import DTYPES, MAX_SEED, MAX_THREADS, PRESET_NAMES, SHARING, AdaptConfig

# Whether programs are searched: not at all, beside the network, or without a network.
INDUCE = ("off", "on", "only")

_NETWORK, _MACHINE, _ANSWERS = "network and recipe", "machine and workers", "answers"


@dataclass(frozen=True)
class SolveOptions:
    """What `solve` is asked to do. Raises `InputError` naming the option for a value that is impossible.

    Without an `artifact`, the artifact that comes with the package is adapted where `bundled` is set and there is one
    for the preset. Otherwise random weights are adapted.
    """

    challenges: Path = setting(
        help="Kaggle challenges file, file of one task, folder of such files, or name of a set", metavar="FILE"
    )
    out: Path = setting(
        help="folder for submission.json, report.json and the journal, from which the same command goes on",
        metavar="DIR",
    )
    artifact: Path | None = setting(None, "folder of a pretrained network to adapt", flag=False, unset="see bundled")
    bundled: bool = setting(False, "adapt the network that comes with the package for the preset", flag=False)
    preset: str | None = setting(
        None, "network and recipe", PRESET_NAMES, group=_NETWORK, unset="what suits artifact and device"
    )
    seed: int = setting(0, "seed of weights, views and the order of examples", least=0, most=MAX_SEED, group=_NETWORK)
    overrides: Mapping[str, object] = setting(
        {},
        "set any setting of the recipe that adapts and predicts, such as lr=3e-4 (see docs/configuration.md)",
        flag="--set",
        overrides=AdaptConfig,
        group=_NETWORK,
    )
    along: tuple[str, ...] | None = setting(
        None,
        "learn the tasks of these sets, files or folders along with those of the challenges (see along_share); what is "
        "among the challenges is left out; without a SET, learn none along",
        metavar="SET",
        group=_NETWORK,
        unset="what the recipe says",
    )
    device: str | None = setting(
        None, "cpu, cuda or cuda:N", metavar="DEVICE", group=_MACHINE, unset="all GPUs, or the CPU if there is none"
    )
    dtype: str | None = setting(
        None, "number format of the network's computations", DTYPES, group=_MACHINE, unset="what suits the device"
    )
    price_per_hour: float | None = setting(
        None,
        "price of the whole machine per hour, to report the cost per task",
        least=0,
        most=1e9,
        metavar="PRICE",
        group=_MACHINE,
        unset="no cost is reported",
    )
    threads: int | None = setting(
        None,
        "CPU threads per worker",
        least=1,
        most=MAX_THREADS,
        group=_MACHINE,
        unset="1 for a small network on a CPU, else PyTorch's choice",
    )
    save_every: float = setting(
        60.0, "seconds between two saved states of an adaptation", least=0, metavar="SECONDS", group=_MACHINE
    )
    keep_networks: bool = setting(False, "leave the adapted networks in the folder, for show", group=_ANSWERS)
    candidates: int | None = setting(
        None,
        "write each test input's N best grids, with votes and confidence, to candidates.json",
        least=1,
        metavar="N",
        group=_ANSWERS,
        unset="no such file",
    )
    votes: tuple[str, ...] = setting(
        (),
        "let a candidates file vote too, WEIGHT times as much as the network itself (without WEIGHT, 1); repeatable",
        repeat=True,
        metavar="FILE[=WEIGHT]",
        group=_ANSWERS,
    )
    induce: str = setting(
        "on",
        "search programs that reproduce the demonstrations, on cores that the network leaves idle, and let them vote: "
        "beside the network (on), not (off), or without a network (only)",
        INDUCE,
        group=_ANSWERS,
    )
    workers: int | None = setting(
        None,
        "worker processes; 0: all in this process",
        least=0,
        most=2**10,
        group=_MACHINE,
        unset="one per GPU, or one per core",
    )
    groups: int | None = setting(
        None,
        "groups of tasks, each with a network of its own, with --adapt sharded; a seed's answers depend on this number "
        "and not on the workers that share the groups",
        least=1,
        most=2**12,
        metavar="N",
        group=_MACHINE,
        unset="two per worker, or one where there is a single worker or one per core of a CPU",
    )
    sharing: str = setting(
        "sharded",
        "which tasks learn one network together: groups of tasks (sharded), all tasks with all workers (joint), or "
        "each task alone (per-task)",
        SHARING,
        flag="--adapt",
        group=_MACHINE,
    )
    hang_after: float = setting(
        300.0,
        "seconds of silence after which a worker is replaced; a sign of life comes every second",
        least=5,
        metavar="SECONDS",
        group=_MACHINE,
    )

    def __post_init__(self):
        check(self)
        from_dict(AdaptConfig, dict(self.overrides), "overrides")
