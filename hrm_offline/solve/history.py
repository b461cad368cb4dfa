"""Write what a run reaches into its journal, and read it back when a run that was cut off goes on."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from hrm_offline.answers.vote import BatchKey, Votes
from hrm_offline.common.files import checksum, make_folder
from hrm_offline.solve.journal import Journal, Record
from hrm_offline.solve.messages import Adapted, Judged, Voted
from hrm_offline.solve.paths import INDUCTION_FILE, JOURNAL_FILE, network_path, selftest_path

Groups = list[tuple[int, ...]]


@dataclass(frozen=True)
class Past:
    """The identity of the run that a journal belongs to, and its groups of tasks."""

    identity: dict
    groups: Groups


class History:
    """The journal of a run in `folder`. Raises `OSError` if the file cannot be opened."""

    def __init__(self, folder: Path, say: Callable[[str], None], clock: Callable[[], float]):
        self.folder, self.say = make_folder(folder), say
        self.journal = Journal(folder / JOURNAL_FILE, say, clock)
        if self.journal.damaged:
            say(f"WARNING: {self.journal.path}: {self.journal.damaged} damaged records are ignored")

    def past(self) -> Past | None:
        """Return the run that the journal belongs to, or None for a new or damaged journal."""
        return past_of(self.journal.records)

    def begin(self, identity: dict, groups: Groups) -> Groups:
        """Return the groups to work on: the journal's, if the journal is of this very run, else `groups`.

        The journal of another run is cleared.
        """
        past = self.past()
        if past is not None and past.identity == identity:
            return past.groups
        if self.journal.records:
            self.say(f"{self.journal.path} is of another run, or lacks its beginning: starting anew")
        self.journal.clear()
        self._drop_networks(kept=selftest_path(self.folder).name)  # the first worker has just written that
        self.journal.append({"identity": identity, "groups": groups})
        return groups

    def voted(self, message: Voted) -> None:
        self.journal.append({"voted": message.key}, vars(message.votes))

    def judged(self, message: Judged) -> None:
        self.journal.append({"judged": message.group}, vars(message.votes))

    def adapted(self, message: Adapted) -> None:
        self.journal.append({"adapted": message.group, "report": message.report, "crc": message.crc})

    def votes(self) -> Iterator[tuple[BatchKey, Votes]]:
        return votes_of(self.journal.records)

    def scores(self) -> Iterator[tuple[int, Votes]]:
        """Yield the scores of judged candidates, with their groups (see `Judged`)."""
        for record in self.journal.records:
            if "judged" in record.about:
                yield record.about["judged"], Votes(**record.arrays)

    def reports(self) -> Iterator[tuple[int, dict, bool]]:
        """Yield each adapted group, its report, and whether its network is still there and intact."""
        for record in self.journal.records:
            if "adapted" in record.about:
                path = network_path(self.folder, record.about["adapted"])
                intact = _has_checksum(path, record.about["crc"])
                if path.exists() and not intact:
                    self.say(f"WARNING: {path}: is damaged, the group is adapted again")
                yield record.about["adapted"], record.about["report"], intact

    def close(self, keep_networks: bool) -> None:
        """Close the journal of a finished run. Its networks are large: they stay only if `show` may want them."""
        self.journal.close()
        if not keep_networks:
            self._drop_networks()

    def _drop_networks(self, kept: str = "") -> None:
        """Remove adapted networks, saved states and all else but the journals and one file from the folder."""
        for path in self.folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            elif path.name not in (JOURNAL_FILE, INDUCTION_FILE, kept):
                with contextlib.suppress(OSError):  # a folder that cannot be changed any more keeps them
                    path.unlink()


def _has_checksum(path: Path, crc: int) -> bool:
    """Return whether a file is there, can be read and has this checksum."""
    try:
        return checksum(path) == crc
    except OSError:
        return False


def past_of(records: list[Record]) -> Past | None:
    """Return the run that these records belong to, or None if the first record is missing or damaged."""
    first = records[0].about if records else {}
    if "identity" not in first:
        return None
    return Past(first["identity"], [tuple(group) for group in first["groups"]])


def votes_of(records: list[Record]) -> Iterator[tuple[BatchKey, Votes]]:
    """Yield the votes among a journal's records, with their batches."""
    for record in records:
        if "voted" in record.about:
            yield tuple(record.about["voted"]), Votes(**record.arrays)
