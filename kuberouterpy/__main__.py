"""``python -m kuberouterpy``."""

import sys

from kuberouterpy.cli import main

sys.exit(main())
