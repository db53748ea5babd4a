"""What the registry-built AWS plugin makes of a call, and of its answer."""

from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct
from google.rpc import status_pb2
from hypothesis import given
from hypothesis import strategies as st
from pulumi.runtime.proto import provider_pb2

from xfarm.errors import UserError
from xfarm.toolchain import aws_types
from xfarm.toolchain.proxy import rename_details
from xfarm.toolchain.renaming import Call

FUNCTION = "aws:lambda/function:Function"
QUEUE = "aws:sqs/queue:Queue"
ROLE = "aws:iam/role:Role"
SIGNATURE = "4dabf18193072939515e22adb298388d"
ARCHIVE = "0def7320c3a5731c473e5ecbe6d01bc7"
REGION = "eu-west-1"

NAMES = st.from_regex(r"[a-z][A-Za-z0-9]{0,8}", fullmatch=True)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-1000, 1000) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=8,
)


def struct(values: dict[str, Any]) -> Struct:
    result = Struct()
    result.update(values)
    return result


def plain(properties: Struct) -> dict[str, Any]:
    return json_format.MessageToDict(properties)


def urn(token: str, name: str = "thing") -> str:
    return f"urn:pulumi:dev::project::{token}::{name}"


def call(method: str, request: Message, zips: Path = Path("/nowhere")) -> Call:
    return Call(method, request, zips, REGION, Path())


def read(token: str, inputs: dict[str, Any], known: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    """What the engine is told of a resource that was `known` so, and is `found` otherwise."""
    asking = call("Read", provider_pb2.ReadRequest(urn=urn(token), properties=struct(known), inputs=struct(inputs)))
    answer = provider_pb2.ReadResponse(properties=struct(found), inputs=struct(inputs))
    asking.answer(answer)
    return plain(answer.properties)


@pytest.mark.parametrize(
    ("sdk", "terraform", "bridge"),
    [
        ("s3/bucketPolicy:BucketPolicy", "aws_s3_bucket_policy", "s3BucketPolicy:S3BucketPolicy"),
        (
            "sqs/redrivePolicy:RedrivePolicy",
            "aws_sqs_queue_redrive_policy",
            "sqsQueueRedrivePolicy:SqsQueueRedrivePolicy",
        ),
        (
            "iam/getPolicyDocument:getPolicyDocument",
            "aws_iam_policy_document",
            "getIamPolicyDocument:getIamPolicyDocument",
        ),
        ("index/getCallerIdentity:getCallerIdentity", "aws_caller_identity", "getCallerIdentity:getCallerIdentity"),
    ],
)
def test_names_follow_from_the_sdks_token(sdk: str, terraform: str, bridge: str) -> None:
    assert aws_types.terraform_name(f"aws:{sdk}") == terraform
    assert aws_types.bridge_token(f"aws:{sdk}") == f"aws:index/{bridge}"


def test_pulumis_own_types_have_one_name() -> None:
    assert aws_types.bridge_token("pulumi:providers:aws") == "pulumi:providers:aws"


def test_only_the_resources_own_type_is_renamed_in_its_urn() -> None:
    parent = "my:component:Thing$aws:s3/bucket:Bucket$aws:s3/bucketPolicy:BucketPolicy"
    renamed = "my:component:Thing$aws:s3/bucket:Bucket$aws:index/s3BucketPolicy:S3BucketPolicy"
    assert aws_types.bridge_urn(urn(parent, "a::b")) == urn(renamed, "a::b")


@given(st.sampled_from([FUNCTION, QUEUE, "aws:cloudwatch/metricAlarm:MetricAlarm"]), st.dictionaries(NAMES, VALUES))
def test_what_goes_to_the_bridge_comes_back_as_it_was(token: str, values: dict[str, Any]) -> None:
    values = {key: value for key, value in values.items() if key not in ("region", "functionName", "alarmName")}
    request = provider_pb2.CreateRequest(urn=urn(token), properties=struct(values))
    asking = call("Create", request)
    answer = provider_pb2.CreateResponse(properties=request.properties)
    asking.answer(answer)
    assert plain(answer.properties) == plain(struct(values | {"region": REGION}))


def test_names_change_wherever_a_property_is_named() -> None:
    request = provider_pb2.DiffRequest(urn=urn(FUNCTION), ignoreChanges=["name", 'tags["name"]', "code.assets"])
    asking = call("Diff", request)
    assert list(request.ignoreChanges) == ["functionName", 'tags["name"]', "filename.assets"]
    answer = provider_pb2.DiffResponse(replaces=["functionName"], diffs=["filename", "tags.functionName"])
    answer.detailedDiff["filename"].kind = provider_pb2.PropertyDiff.UPDATE
    asking.answer(answer)
    assert (list(answer.replaces), list(answer.diffs)) == (["name"], ["code", "tags.functionName"])
    assert list(answer.detailedDiff) == ["code"]


def test_errors_speak_of_what_the_program_wrote() -> None:
    asking = call("Create", provider_pb2.CreateRequest(urn=urn(FUNCTION)))
    text = f"{aws_types.bridge_urn(urn(FUNCTION))}: missing required property 'functionName'"
    assert asking.text(text) == f"{urn(FUNCTION)}: missing required property 'name'"


@pytest.mark.parametrize("reason", ["Missing required argument. ...", "Invalid or unknown key"])
def test_a_property_with_another_name_in_terraform_is_refused_with_the_table_to_add_it_to(reason: str) -> None:
    token = "aws:lambda/permission:Permission"
    answer = provider_pb2.CheckResponse(failures=[provider_pb2.CheckFailure(reason=reason)])
    call("Check", provider_pb2.CheckRequest(urn=urn(token))).answer(answer)
    assert answer.failures[0].reason == (
        f"{reason} If pulumi_aws calls the property something else, or lets it be left out, add a line for "
        "aws_lambda_permission to _SDK_PROPERTIES or _PHYSICAL_NAMES in xfarm/toolchain/aws_types.py."
    )


def test_a_half_made_resource_reaches_the_engine_under_its_own_names() -> None:
    asking = call("Create", provider_pb2.CreateRequest(urn=urn(FUNCTION)))
    failed = provider_pb2.ErrorResourceInitFailed(id="id", properties=struct({"functionName": "f"}), reasons=["late"])
    status = status_pb2.Status(code=2, message="missing 'functionName'")
    status.details.add().Pack(failed)
    renamed = status_pb2.Status.FromString(rename_details(status.SerializeToString(), asking))
    assert renamed.message == "missing 'name'"
    assert renamed.details[0].Unpack(failed)
    assert plain(failed.properties) == {"name": "f", "region": REGION}
    assert (failed.id, list(failed.reasons)) == ("id", ["late"])


def test_a_resource_without_a_name_gets_one_and_keeps_it() -> None:
    request = provider_pb2.CheckRequest(urn=urn("aws:s3/bucket:Bucket", "Data"), randomSeed=b"seed")
    call("Check", request)
    name = str(request.news["bucket"])
    assert name.startswith("data-")
    assert len(name) == len("data-") + 7
    again = provider_pb2.CheckRequest(
        urn=urn("aws:s3/bucket:Bucket"), randomSeed=b"other", olds=struct({"bucket": name})
    )
    call("Check", again)
    assert again.news["bucket"] == name


def test_another_region_for_one_resource_is_refused() -> None:
    with pytest.raises(UserError, match="us-east-1"):
        call("Check", provider_pb2.CheckRequest(urn=urn(QUEUE), news=struct({"region": "us-east-1"})))


def test_code_becomes_a_file_and_is_code_again_in_the_answer(tmp_path: Path) -> None:
    asset = {SIGNATURE: "c44067f5952c0a294b673a41bacd8c17", "text": "x = 1"}
    code = {SIGNATURE: ARCHIVE, "hash": "abc", "assets": {"main.py": asset}}
    request = provider_pb2.CreateRequest(urn=urn(FUNCTION), properties=struct({"code": code}))
    asking = call("Create", request, tmp_path)
    assert request.properties["filename"] == str(tmp_path / "abc.zip")
    assert (tmp_path / "abc.zip").exists()
    answer = provider_pb2.CreateResponse(properties=request.properties)
    asking.answer(answer)
    assert plain(answer.properties)["code"] == code


def test_code_that_is_only_compared_is_not_written(tmp_path: Path) -> None:
    code = {SIGNATURE: ARCHIVE, "hash": "abc"}
    request = provider_pb2.DiffRequest(urn=urn(FUNCTION), olds=struct({"code": code}), news=struct({"code": code}))
    call("Diff", request, tmp_path)
    assert request.olds["filename"] == request.news["filename"] == str(tmp_path / "abc.zip")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("known", "found"),
    [
        ({"policy": '{"a": [1, 2]}'}, {"policy": '{"a":[1,2]}'}),
        ({}, {"tags": {}}),
        ({"tags": {}}, {}),
        ({"rules": [{"a": "b"}]}, {"rules": [{"a": "b", "enabled": False, "kind": ""}]}),
        ({"inlinePolicies": []}, {"inlinePolicies": [{"name": "made by another resource"}]}),
    ],
)
def test_a_refresh_shows_no_change_where_only_the_spelling_changed(
    known: dict[str, Any], found: dict[str, Any]
) -> None:
    assert read(ROLE, {}, known, found) == known


@pytest.mark.parametrize(
    ("known", "found"),
    [
        ({"policy": '{"a": [1, 2]}'}, {"policy": '{"a":[2,1]}'}),
        ({"tags": {"a": "b"}}, {}),
        ({"timeout": 30}, {"timeout": 0}),
        ({"enabled": True}, {"enabled": False}),
        ({"description": "{not JSON"}, {"description": "{not JSON either"}),
    ],
)
def test_a_refresh_shows_a_real_change(known: dict[str, Any], found: dict[str, Any]) -> None:
    assert read(ROLE, {}, known, found) == found


def test_a_mirror_that_the_program_sets_itself_is_compared() -> None:
    found = {"inlinePolicies": [{"name": "changed"}]}
    assert read(ROLE, {"inlinePolicies": [{"name": "asked"}]}, {"inlinePolicies": [{"name": "asked"}]}, found) == found


def test_the_bridges_own_note_follows_what_is_put_back() -> None:
    def noted(**properties: object) -> dict[str, Any]:
        return {"__pulumi_raw_state_delta": {"obj": {"ps": properties}}}

    nothing: dict[str, object] = {}
    known = {"tags": nothing, "a": 1} | noted(tags={"map": {}})
    found = {"a": 2, "layers": nothing} | noted(layers={"arr": {}})
    assert read(ROLE, {}, known, found) == {"tags": {}, "a": 2} | noted(tags={"map": {}})


@pytest.mark.parametrize(
    ("there_is", "asked_before", "change"),
    [
        ('{"a":1}', '{"a": 1}', provider_pb2.DiffResponse.DIFF_NONE),
        ('{"a":2}', '{"a": 1}', provider_pb2.DiffResponse.DIFF_SOME),
        ('{"a":1}', '{"a": 2}', provider_pb2.DiffResponse.DIFF_SOME),
    ],
)
def test_a_plan_to_write_the_same_in_other_words_is_no_change(there_is: str, asked_before: str, change: int) -> None:
    request = provider_pb2.DiffRequest(
        urn=urn("aws:sqs/redrivePolicy:RedrivePolicy"),
        news=struct({"redrivePolicy": '{"a": 1}'}),
        old_inputs=struct({"redrivePolicy": asked_before}),
        olds=struct({"redrivePolicy": there_is}),
    )
    asking = call("Diff", request)
    answer = provider_pb2.DiffResponse(changes=provider_pb2.DiffResponse.DIFF_SOME, diffs=["redrivePolicy"])
    asking.answer(answer)
    assert answer.changes == change
