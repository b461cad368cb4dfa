"""The tokens of a canvas, numbered as in the published model, and the shape of a canvas."""

PAD = 0  # outside the grid
EOS = 1  # along the grid's lower and right edge
COLOURS = 10
FIRST_COLOUR = 2  # colour c is token c + 2
VOCABULARY = 12
IGNORE = -100  # label of a position that the loss passes over

Canvas = tuple[int, int]  # rows and columns; a sequence has the cells row by row
