"""Writes the JSON documents that AWS takes as text: policies and redrive policies."""

import pulumi


def json_document(value: pulumi.Input[object]) -> pulumi.Output[str]:
    """Return ``value``, in which outputs may stand anywhere, as JSON without white space.

    AWS gives a redrive policy back without white space, and the provider compares it as text: a document written with
    the usual separators would show as changed in every preview.
    """
    return pulumi.Output.json_dumps(value, separators=(",", ":"))
