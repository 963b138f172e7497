"""`python -m tagger.cli`."""

from tagger.cli import main

main()
