"""`python -m autocompress` is the command `autocompress`."""

from autocompress.cli.main import run

if __name__ == "__main__":
    run()
