"""`python -m nofreelunch`: the command line."""

import sys

try:
    from nofreelunch.cli import main

    sys.exit(main())
except KeyboardInterrupt:  # while it was being loaded
    sys.exit(130)
