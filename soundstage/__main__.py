"""Run the command line: `python -m soundstage`."""

from soundstage.cli.main import run

if __name__ == "__main__":
    run()
