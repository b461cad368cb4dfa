"""Pretrain a small network offline, adapt it to hidden ARC tasks inside a Kaggle notebook.

`python -m hrm_offline --help` lists the commands. Importing the package needs the standard library alone; `build_model`
loads torch when it is called.
"""

__version__ = "0.2.0"


def build_model(preset: str, num_puzzles: int = 1):
    """Return a freshly initialised network of a named preset (see `hrm_offline.presets.PRESETS`).

    The embedding table has rows for `num_puzzles` puzzles, beside those that all puzzles share. Raises `InputError` for
    an unknown name.
    """
    from hrm_offline.data.puzzles import SHARED_ROWS
    from hrm_offline.model.network import build_network
    from hrm_offline.presets import preset as find_preset

    return build_network(find_preset(preset).model, SHARED_ROWS + num_puzzles)
