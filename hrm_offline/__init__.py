"""Pretrain a small recursive model offline, adapt it to hidden ARC tasks inside a Kaggle notebook.

`python -m hrm_offline --help` lists the commands. Importing the package needs neither torch nor
a GPU; `build_model` loads torch when it is called.
"""

__version__ = "0.1.0"


def build_model(preset: str, num_puzzles: int = 1):
    """A freshly initialised model of a named preset (see `hrm_offline.config.PRESETS`).

    `num_puzzles` is the number of puzzles its embedding table has rows for. Raises `InputError`
    for an unknown name.
    """
    from hrm_offline.config import preset as find_preset
    from hrm_offline.data.puzzles import SHARED_ROWS
    from hrm_offline.model.recursive import RecursiveModel

    return RecursiveModel(find_preset(preset).model, SHARED_ROWS + num_puzzles)
