"""The entry of `python -m hrm_offline` and of the console script `hrm-offline`."""

import signal
import sys
import time

STARTED = time.monotonic()  # before torch is imported: a budget counts from here


def run() -> int:
    """Run the command line and return its exit code. The process is over then: a late Ctrl-C changes nothing."""
    try:
        from hrm_offline.cli import main

        return main(started=STARTED)
    except KeyboardInterrupt:  # during the import, or for the second time
        from hrm_offline.common.errors import INTERRUPTED, INTERRUPTED_CODE

        print(INTERRUPTED, file=sys.stderr)
        return INTERRUPTED_CODE
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


if __name__ == "__main__":
    raise SystemExit(run())
