"""The tokens of a canvas, numbered as in the published model, those that only a decoder has, and a canvas' shape."""

PAD = 0  # outside the grid
EOS = 1  # along the grid's lower and right edge
COLOURS = 10
FIRST_COLOUR = 2  # colour c is token c + 2
VOCABULARY = 12
# A decoder reads START, the rows of an input, SEPARATOR, the rows of an output, EOS. NEW_ROW ends each row.
START, SEPARATOR, NEW_ROW = 12, 13, 14
DECODER_VOCABULARY = 15
IGNORE = -100  # label of a position that the loss passes over

Canvas = tuple[int, int]  # rows and columns; a sequence has the cells row by row
