"""List the stages of a first contact with a GPU, in their order and with their time. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass

MINUTES = 28  # of a whole contact, by default


@dataclass(frozen=True)
class Stage:
    """One stage. It is stopped after `seconds`, or, where `takes_rest` is set, when all minutes are over.

    `what` says for people what the stage does.
    """

    name: str
    seconds: int
    what: str
    takes_rest: bool = False


STAGES = (
    Stage("machine", 40, "chip, versions, and the chip's own peaks: a large matrix product and a large copy"),
    Stage("selftest", 140, "every operation against plain PyTorch, then timed, at four shapes of real runs"),
    Stage("tests", 300, "the tests marked `gpu` (graphs and predictor included), then those of all operations"),
    Stage("solve", 150, "`solve` of 30 real tasks with the network that it chooses, and a list of PASS and FAIL"),
    Stage("fault", 120, "the same with `decoder-75m` and a kernel that fails on purpose once learning has begun"),
    Stage(
        "step", 200, "steps of `decoder-75m`, `decoder-4m` and `hrm-27m` on real tasks, with and without CUDA graphs"
    ),
    Stage("block", 200, "a layer of `decoder-75m` and a block of `hrm-27m`, beside eager and `torch.compile`"),
    Stage("published", 120, "the published training step, compiled, where `--against` names a checkout"),
    Stage("predict", 120, "prediction, and how well the probe at the start of a run foresees its time"),
    Stage("repeat", 60, "two adaptations and predictions of one seed: are all bits the same?"),
    Stage("pair", 90, "two GPUs that learn together over NCCL, where there are two"),
    Stage("curve", 120, "adaptation of 30 real tasks, and its score by GPU-seconds", takes_rest=True),
)


def plan_as_markdown() -> str:
    """Return the stages with their time bounds as a table for the documentation."""
    lines = ["| stage | seconds at most | what it does |", "| --- | --- | --- |"]
    for stage in STAGES:
        bound = f"{stage.seconds} or more: the rest" if stage.takes_rest else str(stage.seconds)
        lines.append(f"| `{stage.name}` | {bound} | {stage.what} |")
    total = sum(stage.seconds for stage in STAGES)
    lines.append(f"| all | {total} of {60 * MINUTES} | the rest of {MINUTES} minutes goes into the last stage |")
    return "\n".join(lines) + "\n"
