"""Foreign formats, read in place: each turns what is at a path into `ForeignLog`s.

A format's module says whether it `recognises(path)`, by content, and gives its `candidates(path)`: log name -> opener.
"""
