"""``python -m weftline`` is the command line."""

from weftline.cli.main import main

main()
