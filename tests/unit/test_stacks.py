"""What the three stack programs declare, under Pulumi's mocks."""

import importlib
import json

import pulumi
import pytest
from pulumi.runtime.mocks import MockResourceArgs

from tests.support import stack_program
from tests.support.stack_program import ACCOUNT, MESSAGING, STORAGE, UPSTREAM, Answers, Properties
from xfarm.orchestrator.graph import dependencies

DAY_S = 24 * 60 * 60


@pytest.mark.parametrize("project", dependencies())
def test_a_program_reads_the_stacks_that_it_declares(project: str) -> None:
    program = stack_program.run(project, upstream=UPSTREAM)
    assert sorted(program.references) == sorted(f"organization/{needed}/dev" for needed in dependencies()[project])


@pytest.mark.parametrize("project", dependencies())
def test_every_resource_that_can_have_tags_has_them(project: str) -> None:
    program = stack_program.run(project, upstream=UPSTREAM)
    for name, token in program.types.items():
        module, kind = token.removeprefix("aws:").split("/")
        package = importlib.import_module(f"pulumi_aws.{module.replace('lambda', 'lambda_')}")
        # An event source mapping costs nothing, and its function leads to it.
        if (
            hasattr(getattr(package, kind.partition(":")[2]), "tags")
            and kind != "eventSourceMapping:EventSourceMapping"
        ):
            tags = {"Application": "xfarm-pipeline", "PulumiProject": project, "PulumiStack": "dev"}
            assert program.resources[name].get("tags") == tags, f"{name} needs tags=tags(), from shared.tags"


@pytest.mark.parametrize("project", ["messaging", "compute"])
def test_a_preview_before_the_first_deployment_is_complete(project: str) -> None:
    deployed = stack_program.run(project, upstream=UPSTREAM)
    never_deployed = stack_program.run(project, preview=True)
    assert sorted(never_deployed.types) == sorted(deployed.types)


@pytest.mark.parametrize(("project", "missing"), [("messaging", "storage"), ("compute", "storage")])
def test_an_update_without_the_upstream_stack_names_that_stack(project: str, missing: str) -> None:
    with pytest.raises(pulumi.RunError, match=f"deploy stacks/{missing} first"):
        stack_program.run(project)


def test_an_update_with_an_incomplete_upstream_stack_names_the_missing_output() -> None:
    half = {name: value for name, value in MESSAGING.items() if name != "main_queue_arn"}
    with pytest.raises(pulumi.RunError, match=r"no output 'main_queue_arn': deploy stacks/messaging first"):
        stack_program.run("compute", upstream={"storage": STORAGE, "messaging": half})


@pytest.mark.parametrize(
    ("project", "expected"),
    [
        ("storage", STORAGE),
        ("messaging", {name: value for name, value in MESSAGING.items() if name == "consumer_timeout_seconds"}),
    ],
)
def test_the_outputs_are_those_of_the_contract(project: str, expected: dict[str, object]) -> None:
    outputs = stack_program.run(project, upstream=UPSTREAM).outputs
    assert {name: outputs[name] for name in expected} == expected
    assert outputs.keys() == UPSTREAM[project].keys()


class TestStorage:
    def test_the_bucket(self) -> None:
        bucket = stack_program.run("storage").resources["bucket"]
        assert bucket["bucket"] == "xfarm-bucket-01"
        assert bucket["forceDestroy"] is True

    def test_the_bucket_is_protected_because_a_new_name_would_delete_every_file(self) -> None:
        assert stack_program.run("storage").protected == ["bucket"]

    def test_the_bucket_name_is_a_setting(self) -> None:
        program = stack_program.run("storage", {"bucketName": "xfarm-of-somebody-else"})
        assert program.resources["bucket"]["bucket"] == "xfarm-of-somebody-else"
        assert program.outputs["bucket_name"] == "xfarm-of-somebody-else"

    def test_nothing_is_public(self) -> None:
        block = stack_program.run("storage").resources["bucket-public-access-block"]
        assert block.pop("bucket") == "xfarm-bucket-01"
        assert block == dict.fromkeys(
            ("blockPublicAcls", "blockPublicPolicy", "ignorePublicAcls", "restrictPublicBuckets"), True
        )


class TestMessaging:
    def test_the_queues_are_protected_because_new_names_would_delete_every_message(self) -> None:
        assert stack_program.run("messaging", upstream=UPSTREAM).protected == ["dead-letter-queue", "main-queue"]

    def test_the_queues(self) -> None:
        program = stack_program.run("messaging", upstream=UPSTREAM)
        main, dead = program.resources["main-queue"], program.resources["dead-letter-queue"]
        assert main["name"] == "xFarmMainQueue"
        assert main["receiveWaitTimeSeconds"] == 20
        assert main["messageRetentionSeconds"] == 4 * DAY_S
        assert dead["name"] == "xFarmDeadLetterSqs"
        assert dead["messageRetentionSeconds"] == 14 * DAY_S
        assert main["sqsManagedSseEnabled"] is dead["sqsManagedSseEnabled"] is True

    def test_failing_messages_go_to_the_dead_letter_queue_and_only_those_of_the_main_queue(self) -> None:
        program = stack_program.run("messaging", upstream=UPSTREAM)
        redrive = program.document("main-queue-redrive-policy", "redrivePolicy")
        assert redrive == {"deadLetterTargetArn": "arn:aws:sqs:::xFarmDeadLetterSqs", "maxReceiveCount": 5}
        allow = program.document("dead-letter-queue-redrive-allow-policy", "redriveAllowPolicy")
        assert allow == {"redrivePermission": "byQueue", "sourceQueueArns": ["arn:aws:sqs:::xFarmMainQueue"]}

    def test_only_this_bucket_of_this_account_may_send(self) -> None:
        program = stack_program.run("messaging", upstream=UPSTREAM)
        (statement,) = program.document("main-queue-policy", "policy")["Statement"]
        assert statement["Principal"] == {"Service": "s3.amazonaws.com"}
        assert statement["Action"] == "sqs:SendMessage"
        assert statement["Resource"] == "arn:aws:sqs:::xFarmMainQueue"
        assert statement["Condition"] == {
            "ArnEquals": {"aws:SourceArn": STORAGE["bucket_arn"]},
            "StringEquals": {"aws:SourceAccount": ACCOUNT},
        }

    def test_the_bucket_announces_new_objects_under_the_prefix(self) -> None:
        upstream = {"storage": STORAGE | {"input_prefix": "arrivals/"}}
        notification = stack_program.run("messaging", upstream=upstream).resources["bucket-notification"]
        assert notification["bucket"] == "xfarm-bucket-01"
        (queue,) = notification["queues"]
        assert queue["events"] == ["s3:ObjectCreated:*"]
        assert queue["filterPrefix"] == "arrivals/"

    @pytest.mark.parametrize("timeout", [1, 60, 900])
    def test_the_visibility_timeout_is_six_times_the_functions_timeout(self, timeout: int) -> None:
        program = stack_program.run("messaging", {"consumerTimeoutSeconds": str(timeout)}, upstream=UPSTREAM)
        assert program.resources["main-queue"]["visibilityTimeoutSeconds"] == 6 * timeout
        assert program.outputs["consumer_timeout_seconds"] == timeout


class TestCompute:
    def test_the_function(self) -> None:
        upstream = UPSTREAM | {"messaging": MESSAGING | {"consumer_timeout_seconds": 17}}
        function = stack_program.run("compute", upstream=upstream).resources["function"]
        assert function["name"] == "xFarmLambdaFunction"
        assert function["runtime"] == "python3.12"
        assert function["handler"] == "lambda_function.handler"
        assert function["timeout"] == 17
        assert function["memorySize"] == 1024
        assert function["environment"] == {"variables": {"INPUT_PREFIX": "inputs/", "OUTPUT_PREFIX": "outputs/"}}

    def test_the_zip_holds_the_functions_source_and_nothing_else(self) -> None:
        archive = stack_program.run("compute", upstream=UPSTREAM).resources["function"]["code"]
        assert {"lambda_function.py", "process.py"} <= archive.assets.keys()
        assert all(name.endswith(".py") for name in archive.assets)

    def test_the_role_has_the_two_managed_policies_and_may_consume_the_queue(self) -> None:
        program = stack_program.run("compute", upstream=UPSTREAM)
        attached = {
            resource["policyArn"]
            for name, resource in program.resources.items()
            if program.types[name] == "aws:iam/rolePolicyAttachment:RolePolicyAttachment"
        }
        assert attached == {
            "arn:aws:iam::aws:policy/service-role/AWSLambdaBasicExecutionRole",
            "arn:aws:iam::aws:policy/AmazonS3FullAccess",
        }
        (statement,) = program.document("role-consume-queue", "policy")["Statement"]
        assert statement["Resource"] == MESSAGING["main_queue_arn"]
        assert set(statement["Action"]) == {"sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:GetQueueAttributes"}

    def test_only_the_stack_may_create_the_log_group_and_the_policy_for_that_is_deleted_last(self) -> None:
        program = stack_program.run("compute", upstream=UPSTREAM)
        (statement,) = program.document("role-makes-no-log-groups", "policy")["Statement"]
        assert statement == {"Effect": "Deny", "Action": "logs:CreateLogGroup", "Resource": "*"}
        assert "role-makes-no-log-groups" in program.dependencies["role-basic-execution"]
        assert {"role-basic-execution", "log-group"} <= set(program.dependencies["function"])

    def test_scoped_access_replaces_the_managed_policy(self) -> None:
        program = stack_program.run("compute", {"s3Access": "scoped"}, upstream=UPSTREAM)
        assert "role-s3-full-access" not in program.resources
        assert "arn:aws:s3:::xfarm-bucket-01/outputs/*" in str(program.document("role-s3-scoped-access", "policy"))

    def test_the_role_may_use_only_the_kms_keys_in_the_setting(self) -> None:
        assert "role-decrypt" not in stack_program.run("compute", upstream=UPSTREAM).resources
        keys = [f"arn:{partition}:kms:eu-west-1:{ACCOUNT}:key/mrk-1a" for partition in ("aws", "aws-cn", "aws-us-gov")]
        program = stack_program.run("compute", {"kmsKeyArns": json.dumps(keys)}, upstream=UPSTREAM)
        (statement,) = program.document("role-decrypt", "policy")["Statement"]
        assert statement == {"Effect": "Allow", "Action": "kms:Decrypt", "Resource": keys}

    def test_the_event_source_mapping_reports_single_failures(self) -> None:
        mapping = stack_program.run("compute", upstream=UPSTREAM).resources["event-source-mapping"]
        assert mapping["functionResponseTypes"] == ["ReportBatchItemFailures"]
        assert mapping["eventSourceArn"] == MESSAGING["main_queue_arn"]
        assert mapping["batchSize"] == 1

    @pytest.mark.parametrize(
        ("setting", "scaling"), [("10", {"maximumConcurrency": 10}), ("2", {"maximumConcurrency": 2}), ("0", None)]
    )
    def test_the_maximum_concurrency_is_that_of_the_event_source_mapping(self, setting: str, scaling: object) -> None:
        program = stack_program.run("compute", {"maximumConcurrency": setting}, upstream=UPSTREAM)
        assert program.resources["event-source-mapping"].get("scalingConfig") == scaling

    def test_the_default_maximum_concurrency_fits_a_new_account(self) -> None:
        mapping = stack_program.run("compute", upstream=UPSTREAM).resources["event-source-mapping"]
        assert mapping["scalingConfig"] == {"maximumConcurrency": 10}

    @pytest.mark.parametrize("setting", ["timeout", "timeoutSeconds", "consumerTimeoutSeconds"])
    def test_a_timeout_set_here_is_refused_with_the_right_setting(self, setting: str) -> None:
        with pytest.raises(
            pulumi.RunError, match=f"compute:{setting} is not a setting: .*messaging:consumerTimeoutSeconds"
        ):
            stack_program.run("compute", {setting: "120"}, upstream=UPSTREAM)


@pytest.mark.parametrize(
    ("project", "name", "metric", "dimensions", "setting"),
    [
        (
            "messaging",
            "dead-letter-alarm",
            "ApproximateNumberOfMessagesVisible",
            {"QueueName": "xFarmDeadLetterSqs"},
            "deadLetterAlarmCount",
        ),
        (
            "messaging",
            "dead-letter-age-alarm",
            "ApproximateAgeOfOldestMessage",
            {"QueueName": "xFarmDeadLetterSqs"},
            "deadLetterAgeAlarmSeconds",
        ),
        (
            "messaging",
            "oldest-message-alarm",
            "ApproximateAgeOfOldestMessage",
            {"QueueName": "xFarmMainQueue"},
            "oldestMessageAlarmSeconds",
        ),
        ("compute", "error-alarm", "Errors", {"FunctionName": "xFarmLambdaFunction"}, "errorAlarmCount"),
        ("compute", "throttle-alarm", "Throttles", {"FunctionName": "xFarmLambdaFunction"}, "throttleAlarmCount"),
    ],
)
def test_an_alarm_is_triggered_at_its_setting_and_not_by_missing_data(
    project: str, name: str, metric: str, dimensions: dict[str, str], setting: str
) -> None:
    alarm = stack_program.run(project, {setting: "7"}, upstream=UPSTREAM).resources[name]
    assert alarm["metricName"] == metric
    assert alarm["dimensions"] == dimensions
    assert alarm["threshold"] == 7
    assert alarm["comparisonOperator"] == "GreaterThanOrEqualToThreshold"
    assert alarm["treatMissingData"] == "notBreaching"
    assert [arn.rpartition(":")[2] for arn in alarm["alarmActions"]] == ["xFarmAlarms"]


def test_the_alarm_for_old_dead_letters_leaves_three_days_to_act() -> None:
    resources = stack_program.run("messaging", upstream=UPSTREAM).resources
    main, dead = (resources[name]["messageRetentionSeconds"] for name in ("main-queue", "dead-letter-queue"))
    assert dead - main - resources["dead-letter-age-alarm"]["threshold"] == 3 * DAY_S


def test_alarms_are_mailed_if_an_address_is_set() -> None:
    assert "alarm-email" not in stack_program.run("messaging", upstream=UPSTREAM).resources
    subscription = stack_program.run("messaging", {"alarmEmail": "ops@example.org"}, upstream=UPSTREAM)
    assert subscription.resources["alarm-email"]["protocol"] == "email"
    assert subscription.resources["alarm-email"]["endpoint"] == "ops@example.org"
    assert subscription.outputs["alarm_email"] == "ops@example.org"


def test_a_message_is_a_dead_letter_before_it_expires() -> None:
    for timeout_s, most in ((10, 1000), (60, 720), (900, 48)):
        allowed = {"consumerTimeoutSeconds": str(timeout_s), "maxReceiveCount": str(most)}
        queue = stack_program.run("messaging", allowed, upstream=UPSTREAM).resources["main-queue"]
        assert most * queue["visibilityTimeoutSeconds"] < queue["messageRetentionSeconds"]
        with pytest.raises(pulumi.RunError, match=f"a whole number from 1 to {most}:"):
            stack_program.run("messaging", allowed | {"maxReceiveCount": str(most + 1)}, upstream=UPSTREAM)


@pytest.mark.parametrize(
    ("project", "setting", "value", "wanted"),
    [
        ("storage", "bucketName", "Not_A_Bucket", "3 to 63 lower-case letters"),
        ("storage", "inputPrefix", "inputs", "ending in a slash"),
        ("storage", "inputPrefix", "/inputs/", "not starting with one"),
        ("storage", "outputPrefix", "inputs/results/", "not inside storage:inputPrefix, which is 'inputs/'"),
        ("storage", "inputPrefix", "outputs/new/", "not inside storage:outputPrefix, which is 'outputs/'"),
        ("storage", "inputPrefix", "outputs/", "not the same as storage:outputPrefix"),
        ("storage", "outputPrefix", "results", "ending in a slash"),
        *(("storage", "bucketName", name, "AWS reserves") for name in ("xn--a", "sthree-a", "amzn-s3-demo-a")),
        *(("storage", "bucketName", f"a{end}", "AWS reserves") for end in ("-s3alias", "--ol-s3", "--x-s3")),
        ("storage", "bucketName", "a--table-s3", "AWS reserves"),
        ("storage", "bucketName", "a.mrap", "3 to 63 lower-case letters"),
        *(
            ("storage", "inputPrefix", f"a{odd}b/", "between slashes")
            for odd in ("//", "\x01", "\n", " ", "*", "ü", "${")
        ),
        ("storage", "inputPrefix", "inputs/\n", "between slashes"),
        ("storage", "outputPrefix", "a" * 900 + "/", "at most 900 characters"),
        ("messaging", "alarmEmail", "not an address", "an e-mail address, such as"),
        ("messaging", "alarmEmail", "ops@example", "an e-mail address, such as"),
        ("compute", "logRetentionDays", "15", "one of 1, 3, 5, 7, 14, 30"),
        ("compute", "throttleAlarmCount", "0", "from 1 to 1000000"),
        ("messaging", "oldestMessageAlarmSeconds", "0", "from 1 to 345600"),
        ("messaging", "maxReceiveCount", "0", "from 1 to 720"),
        ("messaging", "consumerTimeoutSeconds", "901", "from 1 to 900"),
        ("messaging", "deadLetterAgeAlarmSeconds", str(9 * DAY_S + 1), f"from 1 to {9 * DAY_S}"),
        ("compute", "batchSize", "11", "from 1 to 10"),
        ("compute", "maximumConcurrency", "1", "from 2 to 1000, or 0 for no maximum"),
        ("compute", "maximumConcurrency", "1001", "from 2 to 1000, or 0 for no maximum"),
        ("compute", "memorySize", "64", "from 128 to 10240"),
        ("compute", "s3Access", "everything", "full or scoped"),
        ("compute", "kmsKeyArns", '["alias/files"]', "the ARN of a KMS key, such as"),
        ("compute", "kmsKeyArns", "[true]", "is true and must be the ARN of a KMS key"),
        ("compute", "kmsKeyArns", "[null]", "is null and must be the ARN of a KMS key"),
        ("compute", "kmsKeyArns", f'["arn:aws:kms:eu-west-1:{ACCOUNT}:alias/files"]', "the ARN of a KMS key"),
        ("compute", "kmsKeyArns", f'["arn:aws:kms:eu-west-1:{ACCOUNT}:key/*"]', "the ARN of a KMS key"),
    ],
)
def test_a_setting_that_aws_would_refuse_is_refused_before_anything_is_declared(
    project: str, setting: str, value: str, wanted: str
) -> None:
    declared: list[str] = []

    class Recording(Answers):
        def outputs(self, args: MockResourceArgs) -> Properties:
            declared.append(args.name)
            return super().outputs(args)

    with pytest.raises(pulumi.RunError) as refusal:
        stack_program.run(project, {setting: value}, upstream=UPSTREAM, answers=Recording())
    assert declared == []
    assert f"{project}:{setting} is " in str(refusal.value)
    assert wanted in str(refusal.value)
    assert "Pulumi.dev.yaml" in str(refusal.value)
