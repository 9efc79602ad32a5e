"""A log, and what a run sees in it, in the Rerun viewer. Where the extra `rerun` is missing only `show` can be imported.

send.py       arrays -> one entity of a recording
streams.py    every stream and label of a log
tokens.py     which tokens of every window were kept and hidden
latents.py    errors of prediction and the embedding over time
layout.py     where the viewer puts all this
recording.py  all of it, into a viewer or a file
show.py       what `multisense view` does
"""
