"""Training: the loop, and beside it what a step needs, one file each."""

from multisense.train.loop import train

__all__ = ["train"]
