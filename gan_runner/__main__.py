"""`python -m gan_runner`."""

from gan_runner.cli import main

main()
