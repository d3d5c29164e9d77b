"""`python -m distill`, which is what `accelerate launch -m distill` runs."""

import sys

from distill.cli import main

sys.exit(main())
