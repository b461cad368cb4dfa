"""Execute a notebook as Kaggle would, and print the text output of its cells while they run.

    python tools/support/execute_notebook.py NOTEBOOK OUTPUT SECONDS

Writes the executed notebook to OUTPUT and runs its cells in OUTPUT's folder. Each cell may take SECONDS. The exit code
is 1 if a cell failed or took too long. `tools/local_dryrun.py` runs this script in a process without a network.
"""

from __future__ import annotations

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError

_START_SECONDS = 300  # until the kernel answers; on a busy machine, the customary minute is too short


def main(notebook: str, output: str, seconds: str) -> int:
    content = nbformat.read(notebook, as_version=4)
    client = _EchoingClient(
        content,
        timeout=int(float(seconds)),
        kernel_name="python3",
        startup_timeout=_START_SECONDS,
        resources={"metadata": {"path": str(Path(output).parent)}},
    )
    try:
        client.execute()
    except (CellExecutionError, CellTimeoutError) as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        nbformat.write(content, output)
    return 0


class _EchoingClient(NotebookClient):
    """Prints the text of a cell as soon as the cell writes it, because the cell that runs solve takes minutes."""

    def process_message(self, msg, cell, cell_index):
        if msg["msg_type"] == "stream":
            print(msg["content"]["text"], end="", flush=True)
        return super().process_message(msg, cell, cell_index)


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(f"usage: {sys.argv[0]} NOTEBOOK EXECUTED_NOTEBOOK SECONDS")
    sys.exit(main(*sys.argv[1:]))
