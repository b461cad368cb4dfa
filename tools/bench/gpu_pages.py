"""Write the GPU table of README.md and the plan of docs/gpu.md, between their markers.

    python tools/bench/gpu_pages.py

The table is made of the result.json files of first_contact.py that lie in docs/gpu, one column per file; the plan is
made of the stages in tools/bench/contact/plan.py. A test compares both pages with what this tool writes.
"""

from __future__ import annotations

import script_setup

import sys
from collections.abc import Callable
from pathlib import Path

from hrm_offline.common.errors import InputError
from hrm_offline.common.files import read_json, write_bytes
from tools.bench.contact.plan import plan_as_markdown
from tools.bench.contact.report import checks_of
from tools.support import environment
from tools.support.command_line import parser_of, run_tool

README, PAGE = environment.REPOSITORY / "README.md", environment.REPOSITORY / "docs" / "gpu.md"
RESULTS = environment.REPOSITORY / "docs" / "gpu"
TABLE, PLAN = "gpu-table", "gpu-plan"
_BY = "made by python tools/bench/gpu_pages.py"

NO_GPU_YET = (
    "No GPU has been met yet: every number of this project is from a CPU. For whoever has a GPU for half an hour,\n"
    "[docs/gpu.md](docs/gpu.md) has one command, whose results then fill a table here.\n"
)


def between_markers(text: str, name: str, content: str) -> str:
    """Return a page with what stands between the markers of `name` replaced. Raises `InputError` without markers."""
    begin, end = f"<!-- {name}: {_BY} -->\n", f"<!-- end of {name} -->"
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise InputError(f"no markers '{begin.strip()}' and '{end}', expected both in the page")
    return before + begin + content + end + after


def table_of(results: list[dict]) -> str:
    """Return the GPU table, one column per result, or the line that says that there is none."""
    if not results:
        return NO_GPU_YET
    header = ["", *(result["machine"].get("chip", "unknown chip") for result in results)]
    lines = [header, ["---"] * len(header)]
    lines += [[label, *(_cell(result, stage, cell) for result in results)] for label, stage, cell in _LINES]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def _cell(result: dict, stage: str, cell: Callable[[dict], str | None]) -> str:
    """Return what a result says, or why it says nothing."""
    said = cell(result)
    if said is not None:
        return said
    ended = next(one for one in result["stages"] if one["name"] == stage)
    if ended["state"] == "done":
        return "not measured"
    return f"not measured: {ended['state']}" + (f" ({ended['reason']})" if ended["reason"] else "")


def _rows(result: dict, stage: str, what: str, **wanted: object) -> list[dict]:
    """Return the rows of a kind in which all `wanted` columns have these values."""
    rows = result["rows"].get(stage, [])
    return [row for row in rows if row["what"] == what and all(row.get(k) == v for k, v in wanted.items())]


def _peaks(result: dict) -> str | None:
    rows = _rows(result, "machine", "peaks")
    return f"{rows[-1]['product TFLOP/s']:.0f} TFLOP/s; {rows[-1]['copy GB/s']:,.0f} GB/s" if rows else None


def _operations(result: dict) -> str | None:
    verdicts = _rows(result, "selftest", "verdict")
    verdicts = [row for row in verdicts if row["preset"] == verdicts[0]["preset"]]
    if not verdicts:
        return None
    tried = [row for row in verdicts if not str(row.get("reason")).startswith("not tested")]
    ours = [row for row in tried if row["candidate"] != "PyTorch"]
    wrong = sorted({row["op"] for row in _rows(result, "selftest", "operation") if row["fault"]})
    untried = len(verdicts) - len(tried)
    return (
        f"kernels were faster in {len(ours)} of {len(tried)} trials; {untried} not tried; "
        f"wrong or failed: {', '.join(wrong) or 'none'}"
    )


def _checks(stage: str) -> Callable[[dict], str | None]:
    """Return a function that counts the checks of a stage, and adds the score where there is one."""

    def cell(result: dict) -> str | None:
        checks = [check for check in checks_of(result) if check["stage"] == stage]
        if not checks:
            return None
        failed = [check["name"] for check in checks if not check["passed"]]
        words = f"FAIL: {', '.join(failed)}" if failed else f"PASS, {len(checks)} of {len(checks)}"
        for run in _rows(result, stage, "run"):
            words += f"; {run['points']:.2f} points of {run['tasks']} in {run['seconds']:.0f} s"
        return words

    return cell


def _decoder_step(result: dict) -> str | None:
    return _step(result, ("decoder-75m", "decoder-170k"))


def _small_decoder_step(result: dict) -> str | None:
    plain, recorded = (_step(result, ("decoder-4m",), graphs) for graphs in ("no", "yes"))
    return f"{plain}; with CUDA graphs {recorded}" if plain and recorded else plain


def _hrm_step(result: dict) -> str | None:
    words = _step(result, ("hrm-27m", "hrm-132k"))
    for graphs in _rows(result, "step", "graphs"):
        words = f"{words}; with CUDA graphs {graphs['times as fast']:.2f} times as fast"
    for row in _rows(result, "step", "memory", mode="triton"):
        if row.get("peak GiB") is not None:
            words = f"{words}; {row['peak GiB']:.1f} GiB at most, counted {row['counted GiB']:.1f}"
    return words


def _step(result: dict, presets: tuple[str, ...], graphs: str = "no") -> str | None:
    """Return the rates of the step of one of these presets; that of a walk at toy size is a smaller one."""
    rows = [row for row in _rows(result, "step", "visit", graphs=graphs) if row["preset"] in presets]
    if not rows:
        return None
    share = rows[-1]["share of peak"]
    share_in_words = f", {share:.0%} of the product" if share is not None else ""
    return f"{rows[-1]['examples/s']:,.0f} examples/s, {rows[-1]['tokens/s']:,.0f} tokens/s{share_in_words}"


def _block(result: dict) -> str | None:
    return _block_in_words(result, op="block", batch=768, direction="forward")


def _decoder_layer(result: dict) -> str | None:
    return _block_in_words(result, op="decoder layer", batch=96, direction="both")


def _block_in_words(result: dict, **row: object) -> str | None:
    def ms(implementation: str) -> float | None:
        rows = _rows(result, "block", "block", **row, implementation=implementation)
        return rows[-1]["ms"] if rows else None

    ours = ms("ours")
    if ours is None:
        return None
    share = _rows(result, "block", "block", **row, implementation="ours")[-1]["gemm_percent"]
    words = f"{ours:.1f} ms" + (f", {share:.0f}% of the product" if share is not None else "")
    for name, other in (("eager", ms("eager")), ("`torch.compile`", ms("compiled"))):
        words += f"; {other / ours:.2f} times as fast as {name}" if other is not None else f"; {name} not measured"
    return words


def _published(result: dict) -> str | None:
    rows = _rows(result, "published", "published", batch=96)
    times = {row["implementation"]: row["ms"] for row in rows if row["ms"] is not None}
    if not {"ours", "published"} <= set(times):
        return None
    return f"{times['published'] / times['ours']:.2f} times as fast"


def _prediction(result: dict) -> str | None:
    rows = _rows(result, "predict", "prediction")
    if not rows:
        return None
    row = rows[-1]
    return f"{row['tokens/s']:,.0f} tokens/s; the probe foresees {row['probe by truth']:.2f} of the time"


def _repeat(result: dict) -> str | None:
    rows = _rows(result, "repeat", "repeat")
    if not rows:
        return None
    same = rows[-1]["weights"] and rows[-1]["votes"]
    return "yes" if same else f"no: weights differ by up to {rows[-1]['difference']}"


def _pair(result: dict) -> str | None:
    rows = _rows(result, "pair", "pair")
    return f"{rows[-1]['times as fast']:.2f} times as fast as one" if rows else None


def _curve(result: dict) -> str | None:
    rows = _rows(result, "curve", "curve")
    if not rows:
        return None
    best = max(rows, key=lambda row: row["points"])
    words = f"{best['points']:.2f} points of {best['tasks']} after {best['GPU-seconds']:.0f} GPU-seconds"
    return f"{words} ({best['network']})"


# Label, the stage that it comes from, and the function that reads it out of a result.
_LINES: tuple[tuple[str, str, Callable[[dict], str | None]], ...] = (
    ("commit", "machine", lambda result: ", ".join(result["commits"])),
    ("large matrix product; large copy", "machine", _peaks),
    ("operations, at the shapes of `decoder-75m`", "selftest", _operations),
    ("tests on the GPU", "tests", _checks("tests")),
    ("`solve` of 30 real tasks, programs beside it", "solve", _checks("solve")),
    ("`decoder-75m` on these tasks, without programs, and a kernel that fails", "fault", _checks("fault")),
    ("training step of `decoder-75m`", "step", _decoder_step),
    ("training step of `decoder-4m`", "step", _small_decoder_step),
    ("training step of `hrm-27m`", "step", _hrm_step),
    ("a layer of `decoder-75m` both ways, 96 sequences of up to 360 tokens", "block", _decoder_layer),
    ("a block of `hrm-27m` forward, 768 x 901 tokens", "block", _block),
    ("training step beside the published one, compiled", "published", _published),
    ("prediction of `decoder-75m`", "predict", _prediction),
    ("two runs of one seed are the same bits", "repeat", _repeat),
    ("two GPUs that learn together", "pair", _pair),
    ("best score of the curve", "curve", _curve),
)


def read_results(folder: Path) -> list[dict]:
    """Return the results in a folder, by file name. Raises `InputError` for one of a smoke run."""
    results = []
    for path in sorted(folder.glob("*.json")):
        result = read_json(path)
        if result.get("smoke", True):
            raise InputError(f"{path}: is of a smoke run, expected the result of a GPU")
        results.append(result)
    return results


def pages(results: list[dict]) -> dict[Path, str]:
    """Return both pages as they should be."""
    return {
        README: between_markers(README.read_text(encoding="utf-8"), TABLE, table_of(results)),
        PAGE: between_markers(PAGE.read_text(encoding="utf-8"), PLAN, plan_as_markdown()),
    }


def main() -> int:
    parser_of(__doc__).parse_args()
    for path, text in pages(read_results(RESULTS)).items():
        write_bytes(path, text.encode())
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(run_tool(main))
