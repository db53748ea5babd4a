"""The outputs of each stack, which other stacks read by StackReferences.

A stack exports its outputs with `export`, and reads those of another with `read`. So no stack writes an output's name,
and the type checker checks all of them. `xfarm.operations.pipeline.Pipeline` has the outputs that operators need, under
the same names.
"""

from dataclasses import dataclass, fields
from typing import Any, ClassVar, Self

import pulumi
from pulumi.output import UNKNOWN


@dataclass(frozen=True, kw_only=True)
class StackOutputs:
    """The outputs of one stack; the names of the fields are the names of the outputs."""

    project: ClassVar[str]

    def export(self) -> None:
        """Export every field as an output of the running stack."""
        for field in fields(self):
            pulumi.export(field.name, getattr(self, field.name))

    @classmethod
    def read(cls) -> Self:
        """Return the outputs of the stack with the same name in the project that exports them.

        In a preview, an output that was never deployed is unknown. In an update it is an error that names the stack to
        deploy first. In a self-managed backend, the organization is always called `organization`, and
        `pulumi.get_organization` returns that ("Stack references" in Pulumi's documentation).

        Raises:
            pulumi.RunError: An output was never deployed. (Raised when the output is resolved.)
        """
        reference = pulumi.StackReference(f"{pulumi.get_organization()}/{cls.project}/{pulumi.get_stack()}")
        return cls(**{field.name: cls._require(reference, field.name) for field in fields(cls)})

    @classmethod
    def _require(cls, reference: pulumi.StackReference, name: str) -> pulumi.Output[Any]:
        def pick(outputs: dict[str, Any]) -> Any:  # noqa: ANN401 - an output may have any type
            if name in outputs:
                return outputs[name]
            if pulumi.runtime.is_dry_run():
                return UNKNOWN
            raise pulumi.RunError(
                f"stack '{pulumi.get_stack()}' of project '{cls.project}' has no output '{name}': "
                f"deploy stacks/{cls.project} first."
            )

        return reference.outputs.apply(pick)


@dataclass(frozen=True, kw_only=True)
class StorageOutputs(StackOutputs):
    """The bucket and its folders."""

    project = "storage"

    bucket_name: pulumi.Output[str]
    bucket_arn: pulumi.Output[str]
    input_prefix: pulumi.Output[str]
    output_prefix: pulumi.Output[str]


@dataclass(frozen=True, kw_only=True)
class MessagingOutputs(StackOutputs):
    """The queues, the timeout of the main queue's consumer, and the alarm topic with its email address."""

    project = "messaging"

    main_queue_arn: pulumi.Output[str]
    main_queue_url: pulumi.Output[str]
    dead_letter_queue_arn: pulumi.Output[str]
    dead_letter_queue_url: pulumi.Output[str]
    alarm_topic_arn: pulumi.Output[str]
    alarm_email: pulumi.Output[str]
    consumer_timeout_seconds: pulumi.Output[int]


@dataclass(frozen=True, kw_only=True)
class ComputeOutputs(StackOutputs):
    """The function, its log group and its event source mapping."""

    project = "compute"

    function_name: pulumi.Output[str]
    log_group_name: pulumi.Output[str]
    event_source_mapping_id: pulumi.Output[str]
