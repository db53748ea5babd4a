"""JSON documents that AWS takes as text: policies and redrive policies."""

import pulumi


def json_document(value: pulumi.Input[object]) -> pulumi.Output[str]:
    """Return `value`, which may contain outputs, as JSON without white space.

    AWS returns a redrive policy without white space, and the provider compares it as text. With the usual separators it
    would be a change in every preview.
    """
    return pulumi.Output.json_dumps(value, separators=(",", ":"))
