"""`python -m secateur` is the command `secateur`."""

from secateur.cli.main import main

main()
