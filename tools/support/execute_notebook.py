"""Execute a notebook in place of Kaggle: `execute_notebook.py NOTEBOOK OUTPUT SECONDS`.

Prints the cells' text output as it comes, saves the executed notebook, exits 1 if a cell failed.
"""

from __future__ import annotations

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError

_START_SECONDS = 300  # for a kernel to answer: a busy machine needs more than the customary minute


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
    """Shows what a cell prints while it runs: `solve` takes minutes."""

    def process_message(self, msg, cell, cell_index):
        if msg["msg_type"] == "stream":
            print(msg["content"]["text"], end="", flush=True)
        return super().process_message(msg, cell, cell_index)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
