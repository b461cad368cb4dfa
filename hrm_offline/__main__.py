"""`python -m hrm_offline`."""

import time

STARTED = time.monotonic()  # before torch is imported: a budget counts from here

if __name__ == "__main__":
    from hrm_offline.cli import main

    raise SystemExit(main(started=STARTED))
