"""Everything that deploys and operates the pipeline; installed with the command `xfarm`."""

import os
import sys
from importlib.util import find_spec

if sys.version_info < (3, 11):  # noqa: UP036 - another Python than the environment's may run this
    sys.exit(
        f"error: this is Python {sys.version_info[0]}.{sys.version_info[1]}, and xfarm needs 3.11 or later: "
        "run .venv/bin/xfarm, which the README says how to install."
    )
if find_spec("click") is None:
    sys.exit(
        f"error: the packages that xfarm needs are not installed for {sys.executable}: "
        "run .venv/bin/xfarm, which the README says how to install."
    )

# Before PYTHONPATH, which may lead to packages of the same names as the checkout's.
sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # noqa: PTH100, PTH120 - old Pythons
