"""The unlosable run: journal, schedule, workers, supervision, the dead man's switch."""
