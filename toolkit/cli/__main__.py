"""``python -m dmdkit.cli`` is the ``dmdkit`` command."""

import sys

from dmdkit.cli import main

sys.exit(main())
