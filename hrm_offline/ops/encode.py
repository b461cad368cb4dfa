"""Grids to tokens on a canvas: recoloured, turned, placed and edged in one gather."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from hrm_offline.common.tokens import COLOURS, EOS, FIRST_COLOUR, PAD, Canvas
from hrm_offline.ops.dispatch import decide, demote_after
from hrm_offline.ops.faults import KernelFault
from hrm_offline.ops.launch import describe, jit, launch, launcher, triton

if triton:
    import triton.language as tl


@dataclass(frozen=True)
class Grids:
    """Many grids, row by row and one after another: cells uint8 [N]; where each starts, its rows and its
    columns, int32 [G]."""

    cells: torch.Tensor
    start: torch.Tensor
    rows: torch.Tensor
    cols: torch.Tensor


def encode(
    grids: Grids,
    index: torch.Tensor,
    symmetry: torch.Tensor,
    colours: torch.Tensor,
    corner: torch.Tensor,
    canvas: Canvas,
) -> torch.Tensor:
    """Tokens int32 [B, rows x cols] of the grids `index` int32 [B], each with its upper left cell at corner
    int32 [B, 2] of the canvas.

    colours uint8 [B, 10]: what each colour becomes. symmetry bool [B, 3]: whether the grid is transposed,
    after its rows and after its columns were reversed. What lies beyond the canvas is cut off: callers
    choose canvases that hold the grid. Raises `ValueError` for shapes that do not fit.
    """
    size = len(index)
    if symmetry.shape != (size, 3) or colours.shape != (size, COLOURS) or corner.shape != (size, 2):
        raise ValueError(
            f"encode: these do not fit {size} grids: {describe(symmetry=symmetry, colours=colours, corner=corner)}"
        )
    if not decide("encode", grids.cells.device, torch.float32).triton:
        return encode_reference(grids, index, symmetry, colours, corner, canvas)
    out = torch.empty(size, canvas[0] * canvas[1], dtype=torch.int32, device=grids.cells.device)
    try:
        encode_grids(
            grids.cells,
            grids.start,
            grids.rows,
            grids.cols,
            index.contiguous(),
            symmetry.to(torch.uint8).contiguous(),
            colours.contiguous(),
            corner.contiguous(),
            canvas[1],
            out,
        )
    except KernelFault as fault:
        demote_after(fault)
        return encode_reference(grids, index, symmetry, colours, corner, canvas)
    return out


def encode_reference(
    grids: Grids,
    index: torch.Tensor,
    symmetry: torch.Tensor,
    colours: torch.Tensor,
    corner: torch.Tensor,
    canvas: Canvas,
) -> torch.Tensor:
    """`encode` in plain PyTorch."""
    i, j = (
        torch.arange(length, device=index.device, dtype=torch.int32)[None] - start[:, None]
        for length, start in zip(canvas, corner.unbind(1))
    )
    cols = grids.cols[index]
    place = Place(grids.rows[index], cols, symmetry, i, j)
    cell = grids.cells[place.flat(cols[:, None]) + grids.start[index][:, None]].long()
    colour = colours.gather(1, cell).int().view(place.inside.shape) + FIRST_COLOUR
    below, right = i == place.height[:, None], j == place.width[:, None]
    edge = (place.in_rows.unsqueeze(2) & right.unsqueeze(1)) | (below.unsqueeze(2) & place.in_cols.unsqueeze(1))
    return torch.where(place.inside, colour, torch.where(edge, EOS, PAD)).flatten(1)


class Place:
    """Where cells (i, j) of turned grids come from. rows and cols [B] are the grids' before, symmetry
    [B, 3] as for `encode`; i [1 or B, I], j [1 or B, J]."""

    def __init__(self, rows, cols, symmetry, i, j):
        transposes, flips_rows, flips_cols = symmetry[:, :, None].unbind(1)
        self.transposes = transposes
        rows, cols = rows[:, None], cols[:, None]
        height, width = torch.where(transposes, cols, rows), torch.where(transposes, rows, cols)
        self.height, self.width = height.squeeze(1), width.squeeze(1)
        self.in_rows, self.in_cols = (i >= 0) & (i < height), (j >= 0) & (j < width)
        self.inside = self.in_rows.unsqueeze(2) & self.in_cols.unsqueeze(1)
        # Where it transposes, i counts the grid's columns, from the far side if these are reversed.
        self.i = torch.where(torch.where(transposes, flips_cols, flips_rows), height - 1 - i, i)
        self.j = torch.where(torch.where(transposes, flips_rows, flips_cols), width - 1 - j, j)

    def flat(self, stride: int | torch.Tensor) -> torch.Tensor:
        """Index int64 [B, I x J] of each cell in a grid stored row by row, its rows `stride` apart (a
        number, or [B, 1]); 0 outside."""
        along_i = torch.where(self.transposes, self.i, self.i * stride)
        along_j = torch.where(self.transposes, self.j * stride, self.j)
        return torch.where(self.inside, along_i.unsqueeze(2) + along_j.unsqueeze(1), 0).flatten(1).long()


_BLOCK = 256


@launcher(
    "(Tensor cells, Tensor start, Tensor rows, Tensor cols, Tensor index, Tensor symmetry, Tensor colours, "
    "Tensor corner, int width, Tensor(a!) out) -> ()"
)
def encode_grids(cells, start, rows, cols, index, symmetry, colours, corner, width, out):
    """Fill out int32 [B, S], the tokens of canvases `width` columns wide."""
    blocks = triton.cdiv(out.shape[1], _BLOCK)
    launch(
        _encode_kernel,
        len(out) * blocks,
        cells,
        start,
        rows,
        cols,
        index,
        symmetry,
        colours,
        corner,
        out,
        out.shape[1],
        width,
        COLOURS=COLOURS,
        FIRST_COLOUR=FIRST_COLOUR,
        EOS=EOS,
        PAD=PAD,
        BLOCK=_BLOCK,
        num_warps=4,
    )


@jit
def _encode_kernel(
    cells_ptr,
    start_ptr,
    rows_ptr,
    cols_ptr,
    index_ptr,
    symmetry_ptr,
    colours_ptr,
    corner_ptr,
    out_ptr,
    size,
    canvas_cols,
    COLOURS: tl.constexpr,
    FIRST_COLOUR: tl.constexpr,
    EOS: tl.constexpr,
    PAD: tl.constexpr,
    BLOCK: tl.constexpr,
):
    blocks = tl.cdiv(size, BLOCK)
    sequence = tl.program_id(0) // blocks
    place = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    i = place // canvas_cols - tl.load(corner_ptr + 2 * sequence)
    j = place % canvas_cols - tl.load(corner_ptr + 2 * sequence + 1)
    grid = tl.load(index_ptr + sequence)
    rows, cols = tl.load(rows_ptr + grid), tl.load(cols_ptr + grid)
    transposes = tl.load(symmetry_ptr + 3 * sequence) != 0
    flips_rows = tl.load(symmetry_ptr + 3 * sequence + 1) != 0
    flips_cols = tl.load(symmetry_ptr + 3 * sequence + 2) != 0

    height, width = tl.where(transposes, cols, rows), tl.where(transposes, rows, cols)
    in_rows, in_cols = (i >= 0) & (i < height), (j >= 0) & (j < width)
    inside = in_rows & in_cols
    edge = (in_rows & (j == width)) | (in_cols & (i == height))
    x, y = tl.where(transposes, j, i), tl.where(transposes, i, j)
    x, y = tl.where(flips_rows, rows - 1 - x, x), tl.where(flips_cols, cols - 1 - y, y)
    cell = tl.load(cells_ptr + tl.load(start_ptr + grid) + x * cols + y, mask=inside, other=0).to(tl.int32)
    colour = tl.load(colours_ptr + sequence * COLOURS + cell, mask=inside, other=0).to(tl.int32)
    token = tl.where(inside, colour + FIRST_COLOUR, tl.where(edge, EOS, PAD))
    tl.store(out_ptr + sequence.to(tl.int64) * size + place, token, mask=place < size)
