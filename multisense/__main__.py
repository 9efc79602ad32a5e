"""`python -m multisense`, which is what `accelerate launch -m multisense` runs."""

from multisense.cli import main

main()
