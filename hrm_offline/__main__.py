"""The entry of `python -m hrm_offline` and of the console script `hrm-offline`."""

import time

STARTED = time.monotonic()  # before torch is imported: a budget counts from here


def run() -> int:
    """Run the command line and return its exit code."""
    from hrm_offline.cli import main

    return main(started=STARTED)


if __name__ == "__main__":
    raise SystemExit(run())
