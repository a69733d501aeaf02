"""`python -m monitor`: the same as `barograph`."""

from monitor.cli import main

main()
