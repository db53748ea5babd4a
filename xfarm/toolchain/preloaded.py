"""Imports what programs need before they are forked, for `shared_language_host`.

That does not include `shared`, which may change from command to command.
"""

import os

import pulumi_aws

import xfarm.toolchain.language_host  # noqa: F401 - runs the programs
from xfarm.toolchain.service import SERVICES

for service in os.environ.pop(SERVICES).split():
    for name in (service, f"{service}_"):  # as in `lambda_`
        # `pulumi_aws` imports the package of a service once something in it is looked for.
        getattr(getattr(pulumi_aws, name, None), "__all__", None)
