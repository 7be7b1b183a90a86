"""`python -m nofreelunch`: the command line."""

import sys

from nofreelunch.cli import main

sys.exit(main())
