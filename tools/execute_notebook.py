"""Execute a notebook in place of Kaggle: `execute_notebook.py NOTEBOOK OUTPUT SECONDS`.

Prints each cell's text output as it ends, saves the executed notebook, exits 1 if a cell failed.
"""

from __future__ import annotations

import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError


def main(notebook: str, output: str, seconds: str) -> int:
    content = nbformat.read(notebook, as_version=4)
    client = NotebookClient(content, timeout=int(float(seconds)), kernel_name="python3",
                            resources={"metadata": {"path": str(Path(output).parent)}},
                            on_cell_executed=_print_streams)
    try:
        client.execute()
    except (CellExecutionError, CellTimeoutError) as error:
        print(error, file=sys.stderr)
        return 1
    finally:
        nbformat.write(content, output)
    return 0


def _print_streams(cell, **_) -> None:
    for item in cell.get("outputs", []):
        if item["output_type"] == "stream":
            print(item["text"], end="", flush=True)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
