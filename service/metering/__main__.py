"""The command line, as `metering` and as `python -m metering`.

Worker processes are spawned, which imports this module once more: all the commands need not come along with it.
"""


def main() -> None:
    """Run a command."""
    from metering.cli import main as command_line  # noqa: PLC0415 - see above

    command_line()


if __name__ == "__main__":
    main()
