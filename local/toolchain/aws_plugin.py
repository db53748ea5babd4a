"""`pulumi-resource-aws` for machines that cannot download the official one.

It starts Pulumi's own dynamic Terraform bridge, with Terraform's own AWS provider, as a child and hands on every call:
the diffs, the waiters and the errors are the real ones. Ours is only the renaming between the names of `pulumi_aws` and
those that the bridge makes of Terraform's.

Usage, by the engine: python -m local.toolchain.aws_plugin BRIDGE TERRAFORM_PROVIDER ZIPS [ENGINE_ADDRESS ...]
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def main() -> None:
    """Start the bridge and then, while it is starting, load what it takes to talk to it."""
    bridge, provider, zips, *engine = sys.argv[1:]
    # A group of its own: what the bridge starts in turn, Terraform's provider, would outlive it.
    child = subprocess.Popen(
        [bridge, *engine], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, process_group=0
    )
    from local.toolchain.proxy import converse  # noqa: PLC0415 - see above

    converse(child, provider, Path(zips))


if __name__ == "__main__":
    main()
