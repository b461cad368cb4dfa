"""Grids to tokens on a canvas: recoloured, turned, placed and edged in one gather.

`hrm_offline.data.grids.encode` says what the tokens of one grid are.
"""

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
    """G grids in one tensor: the cells of the first, row by row, then those of the second, and so on."""

    cells: torch.Tensor  # uint8 [N], colours
    start: torch.Tensor  # int32 [G], index of each grid's first cell
    rows: torch.Tensor  # int32 [G]
    cols: torch.Tensor  # int32 [G]


# --- public function ---


def encode_views(
    grids: Grids,
    index: torch.Tensor,
    symmetry: torch.Tensor,
    colours: torch.Tensor,
    corner: torch.Tensor,
    canvas: Canvas,
) -> torch.Tensor:
    """Return the tokens int32 [B, rows x cols] of B views on a canvas of (rows, cols).

    index: int32 [B], which of the grids each view shows.
    symmetry: bool [B, 3], whether the grid is transposed, and whether its rows and its columns are reversed before.
    colours: uint8 [B, 10], the colour that each colour becomes.
    corner: int32 [B, 2], row and column of the canvas at which the upper left cell of the turned grid lies.
    Cells beyond the canvas are cut off: callers choose canvases that hold the grid. Raises `ValueError` for shapes
    that do not fit.
    """
    size = len(index)
    if symmetry.shape != (size, 3) or colours.shape != (size, COLOURS) or corner.shape != (size, 2):
        given = describe(symmetry=symmetry, colours=colours, corner=corner)
        raise ValueError(f"encode_views: these do not fit {size} grids: {given}")
    if not decide("encode_views", grids.cells.device, torch.float32).triton:
        return encode_views_reference(grids, index, symmetry, colours, corner, canvas)
    out = torch.empty(size, canvas[0] * canvas[1], dtype=torch.int32, device=grids.cells.device)
    try:
        encode_views_forward(
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
        return encode_views_reference(grids, index, symmetry, colours, corner, canvas)
    return out


# --- plain PyTorch twin ---


def encode_views_reference(
    grids: Grids,
    index: torch.Tensor,
    symmetry: torch.Tensor,
    colours: torch.Tensor,
    corner: torch.Tensor,
    canvas: Canvas,
) -> torch.Tensor:
    """Compute `encode_views` in plain PyTorch."""
    # Canvas rows and columns, counted from each grid's corner: i [B, canvas rows], j [B, canvas columns].
    i, j = (
        torch.arange(length, device=index.device, dtype=torch.int32)[None] - start[:, None]
        for length, start in zip(canvas, corner.unbind(1))
    )
    cols = grids.cols[index]
    turned = TurnedGrids(grids.rows[index], cols, symmetry, i, j)
    cell = grids.cells[turned.source(cols[:, None]) + grids.start[index][:, None]].long()
    colour = colours.gather(1, cell).int().view(turned.inside.shape) + FIRST_COLOUR
    # EOS lies below the last row and right of the last column, but not where both edges would meet.
    below, right = i == turned.height[:, None], j == turned.width[:, None]
    edge = (turned.in_rows.unsqueeze(2) & right.unsqueeze(1)) | (below.unsqueeze(2) & turned.in_cols.unsqueeze(1))
    return torch.where(turned.inside, colour, torch.where(edge, EOS, PAD)).flatten(1)


class TurnedGrids:
    """Where the cells of turned grids come from.

    rows, cols: int [B], sizes of the grids before they are turned. symmetry: bool [B, 3], as for `encode_views`.
    i, j: int [1 or B, I] and [1 or B, J], rows and columns of the turned grids that are looked at.
    `height` and `width` [B] are the sizes after turning. `in_rows` [B, I], `in_cols` [B, J] and `inside` [B, I, J] say
    which of the rows, columns and cells exist.
    """

    def __init__(self, rows, cols, symmetry, i, j):
        transposes, flips_rows, flips_cols = symmetry[:, :, None].unbind(1)  # [B, 1] each
        self.transposes = transposes
        rows, cols = rows[:, None], cols[:, None]
        height, width = torch.where(transposes, cols, rows), torch.where(transposes, rows, cols)
        self.height, self.width = height.squeeze(1), width.squeeze(1)
        self.in_rows, self.in_cols = (i >= 0) & (i < height), (j >= 0) & (j < width)
        self.inside = self.in_rows.unsqueeze(2) & self.in_cols.unsqueeze(1)
        # In a transposed grid i counts the columns of the grid before, and from the far side if they were reversed.
        self.i = torch.where(torch.where(transposes, flips_cols, flips_rows), height - 1 - i, i)
        self.j = torch.where(torch.where(transposes, flips_rows, flips_cols), width - 1 - j, j)

    def source(self, stride: int | torch.Tensor) -> torch.Tensor:
        """Return the index int64 [B, I x J] of each cell in the grid before it was turned, 0 for cells outside.

        That grid is stored row by row. `stride` is the distance of its rows in cells, a number or [B, 1].
        """
        along_i = torch.where(self.transposes, self.i, self.i * stride)
        along_j = torch.where(self.transposes, self.j * stride, self.j)
        return torch.where(self.inside, along_i.unsqueeze(2) + along_j.unsqueeze(1), 0).flatten(1).long()


# --- launchers ---


_BLOCK = 256  # tokens of one program


@launcher(
    "(Tensor cells, Tensor start, Tensor rows, Tensor cols, Tensor index, Tensor symmetry, Tensor colours, "
    "Tensor corner, int width, Tensor(a!) out) -> ()"
)
def encode_views_forward(cells, start, rows, cols, index, symmetry, colours, corner, width, out):
    """Fill `out` int32 [B, S], the tokens of canvases `width` columns wide."""
    blocks = triton.cdiv(out.shape[1], _BLOCK)
    launch(
        _encode_views_kernel,
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


# --- kernels ---


@jit
def _encode_views_kernel(
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
    position = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    i = position // canvas_cols - tl.load(corner_ptr + 2 * sequence)
    j = position % canvas_cols - tl.load(corner_ptr + 2 * sequence + 1)
    grid = tl.load(index_ptr + sequence)
    rows, cols = tl.load(rows_ptr + grid), tl.load(cols_ptr + grid)
    transposes = tl.load(symmetry_ptr + 3 * sequence) != 0
    flips_rows = tl.load(symmetry_ptr + 3 * sequence + 1) != 0
    flips_cols = tl.load(symmetry_ptr + 3 * sequence + 2) != 0

    # (i, j) is a cell of the turned grid, (x, y) the same cell of the grid before.
    height, width = tl.where(transposes, cols, rows), tl.where(transposes, rows, cols)
    in_rows, in_cols = (i >= 0) & (i < height), (j >= 0) & (j < width)
    inside = in_rows & in_cols
    edge = (in_rows & (j == width)) | (in_cols & (i == height))
    x, y = tl.where(transposes, j, i), tl.where(transposes, i, j)
    x, y = tl.where(flips_rows, rows - 1 - x, x), tl.where(flips_cols, cols - 1 - y, y)
    cell = tl.load(cells_ptr + tl.load(start_ptr + grid) + x * cols + y, mask=inside, other=0).to(tl.int32)
    colour = tl.load(colours_ptr + sequence * COLOURS + cell, mask=inside, other=0).to(tl.int32)
    token = tl.where(inside, colour + FIRST_COLOUR, tl.where(edge, EOS, PAD))
    tl.store(out_ptr + sequence.to(tl.int64) * size + position, token, mask=position < size)
