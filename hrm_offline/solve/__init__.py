"""Run the whole job so that nothing can be lost: journal, schedule, workers, supervision, watchdog."""
