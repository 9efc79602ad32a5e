"""Making a run useful to others: a folder for the Hub with its card, and the encoder as a program without Python."""
