"""The demo's story, run in the guest."""

import sys

from kuberouterpy.lab.demo import inside

sys.exit(inside())
