"""Entry point of `python -m monitorlab`."""

from monitorlab.cli import app

if __name__ == "__main__":
    app(prog_name="python -m monitorlab")
