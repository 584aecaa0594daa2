"""Lets `python -m metering` be the command line."""

from metering.cli import main

main()
