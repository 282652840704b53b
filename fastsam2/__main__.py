"""`python -m fastsam2`: the command line."""

from fastsam2.cli.main import app

app(prog_name="fastsam2")
