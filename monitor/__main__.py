"""`python -m monitor`: the same as `barograph`."""

from monitor.commands.cli import main

main()
