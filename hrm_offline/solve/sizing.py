"""Decide how many workers and groups of tasks a run has, and how workers on one CPU share its cores."""

from __future__ import annotations

from hrm_offline.common import machine
from hrm_offline.solve.messages import Hello
from hrm_offline.solve.options import SolveOptions

# A network learns its tasks better beside others: each task alone needs four times the visits (LOG.md, "Each task
# alone"). So cores beyond so many tasks each stay idle. The number itself was not measured.
_TASKS_PER_CORE = 10
GROUPS_PER_WORKER = 2  # so that another worker can take a group from a worker that falls behind
# Adaptation holds about so many times the memory that starting and trying a prediction takes.
_MEMORY_GROWTH = 2


def uses_all_gpus(options: SolveOptions, hello: Hello) -> bool:
    """Return whether each GPU of the machine gets a worker, if the user did not say. PyTorch may not support a GPU."""
    return hello.device.startswith("cuda") and hello.gpus > 0 and options.device in (None, "cuda")


def worker_count(options: SolveOptions, hello: Hello, tasks: int) -> int:
    """Return how many workers were asked for, or by default one per GPU or per physical core of a CPU.

    `hello` is the first worker's, `tasks` how many tasks suit the network. A machine with little memory gets fewer
    workers by default, and so does a run with few tasks.
    """
    if options.workers is not None:
        return max(1, options.workers)  # 0 means one worker in this process
    if uses_all_gpus(options, hello):
        return hello.gpus
    if not _shares_cpu(options, hello):
        return 1
    cores = min(machine.physical_cores(), _workers_in_memory(hello.memory))
    return max(1, min(cores, options.groups or _useful_cores(options, tasks)))


def cores_for(options: SolveOptions, tasks: int) -> int:
    """Return how many cores of a CPU learn at a time, as far as it is known before a worker has started.

    A number of groups counts as so many cores, so that the answers depend on that number alone.
    """
    if options.sharing == "joint":
        return 1
    if options.groups is not None:
        return options.groups
    workers = options.workers if options.workers is not None else _useful_cores(options, tasks)
    return max(1, min(machine.physical_cores(), workers))


def _useful_cores(options: SolveOptions, tasks: int) -> int:
    """Return how many cores of a CPU are worth a network each."""
    return tasks if options.sharing == "per-task" else tasks // _TASKS_PER_CORE


def group_count(options: SolveOptions, hello: Hello, workers: int, tasks: int) -> int:
    """Return into how many groups the tasks are split."""
    # The cores of a CPU are alike, so none falls behind.
    is_counted = options.workers is None and _shares_cpu(options, hello)
    return _groups(options, workers, tasks, hello.network.recipe.group_tasks, 1 if is_counted else GROUPS_PER_WORKER)


def gpu_groups(options: SolveOptions, gpus: int, tasks: int, limit: int) -> int:
    """Return into how many groups the tasks are split on GPUs, as far as it is known before a worker has started.

    A group has at most `limit` tasks, if that is not 0.
    """
    workers = gpus if options.workers is None else max(1, options.workers)
    return _groups(options, workers, tasks, limit, GROUPS_PER_WORKER)


def _groups(options: SolveOptions, workers: int, tasks: int, limit: int, per_worker: int) -> int:
    """Return the number of groups of at most `limit` tasks (0: any number), with `per_worker` for each of several."""
    if options.sharing != "sharded":
        return tasks if options.sharing == "per-task" else 1
    if options.groups is not None:
        return options.groups
    least = -(-tasks // limit) if limit else 1
    return max(least, 1 if workers == 1 else per_worker * workers)


def threads_per_worker(options: SolveOptions, hello: Hello, workers: int) -> int:
    """Return the CPU threads of each worker: as the first has them, or fewer where workers would share a core."""
    if workers == 1 or options.threads is not None or not hello.device.startswith("cpu"):
        return hello.threads
    return max(1, min(hello.threads, machine.physical_cores() // workers))


def _shares_cpu(options: SolveOptions, hello: Hello) -> bool:
    """Return whether a CPU computes, and each worker learns groups of its own."""
    return hello.device.startswith("cpu") and options.sharing != "joint"


def _workers_in_memory(bytes_held: int) -> float:
    """Return how many workers fit into memory. `bytes_held` is the memory of the worker that is there."""
    if not bytes_held:
        return float("inf")
    return max(1, (machine.free_memory() + bytes_held) // (_MEMORY_GROWTH * bytes_held))
