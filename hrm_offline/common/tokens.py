"""The vocabulary of a canvas, as in the published model, and the canvas' shape."""

PAD = 0  # outside the grid
EOS = 1  # along the grid's lower and right edge
COLOURS = 10
FIRST_COLOUR = 2  # colour c is token c + 2
VOCABULARY = 12
IGNORE = -100  # label of a position that the loss passes over

Canvas = tuple[int, int]  # rows, columns; cells are read row by row
