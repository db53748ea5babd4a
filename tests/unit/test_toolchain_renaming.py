"""How the registry-built AWS plugin changes a call and its response."""

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
    """Return the properties that the engine gets when the state has the `known` ones and AWS has the `found` ones."""
    request = provider_pb2.ReadRequest(urn=urn(token), properties=struct(known), inputs=struct(inputs))
    response = provider_pb2.ReadResponse(properties=struct(found), inputs=struct(inputs))
    call("Read", request).rename_response(response)
    return plain(response.properties)


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


def test_tokens_of_pulumi_s_own_types_are_not_renamed() -> None:
    assert aws_types.bridge_token("pulumi:providers:aws") == "pulumi:providers:aws"


def test_only_the_resources_own_type_is_renamed_in_its_urn() -> None:
    parent = "my:component:Thing$aws:s3/bucket:Bucket$aws:s3/bucketPolicy:BucketPolicy"
    renamed = "my:component:Thing$aws:s3/bucket:Bucket$aws:index/s3BucketPolicy:S3BucketPolicy"
    assert aws_types.bridge_urn(urn(parent, "a::b")) == urn(renamed, "a::b")


@given(st.sampled_from([FUNCTION, QUEUE, "aws:cloudwatch/metricAlarm:MetricAlarm"]), st.dictionaries(NAMES, VALUES))
def test_properties_come_back_from_the_bridge_unchanged(token: str, values: dict[str, Any]) -> None:
    values = {key: value for key, value in values.items() if key not in ("region", "functionName", "alarmName")}
    request = provider_pb2.CreateRequest(urn=urn(token), properties=struct(values))
    creation = call("Create", request)
    response = provider_pb2.CreateResponse(properties=request.properties)
    creation.rename_response(response)
    assert plain(response.properties) == plain(struct(values | {"region": REGION}))


def test_names_change_wherever_a_property_is_named() -> None:
    request = provider_pb2.DiffRequest(urn=urn(FUNCTION), ignoreChanges=["name", 'tags["name"]', "code.assets"])
    diff = call("Diff", request)
    assert list(request.ignoreChanges) == ["functionName", 'tags["name"]', "filename.assets"]
    response = provider_pb2.DiffResponse(replaces=["functionName"], diffs=["filename", "tags.functionName"])
    response.detailedDiff["filename"].kind = provider_pb2.PropertyDiff.UPDATE
    diff.rename_response(response)
    assert (list(response.replaces), list(response.diffs)) == (["name"], ["code", "tags.functionName"])
    assert list(response.detailedDiff) == ["code"]


def test_errors_use_the_names_in_the_program() -> None:
    creation = call("Create", provider_pb2.CreateRequest(urn=urn(FUNCTION)))
    text = f"{aws_types.bridge_urn(urn(FUNCTION))}: missing required property 'functionName'"
    assert creation.rename_text(text) == f"{urn(FUNCTION)}: missing required property 'name'"


@pytest.mark.parametrize("reason", ["Missing required argument. ...", "Invalid or unknown key"])
def test_the_error_for_a_property_with_another_name_in_terraform_names_the_tables(reason: str) -> None:
    token = "aws:lambda/permission:Permission"
    response = provider_pb2.CheckResponse(failures=[provider_pb2.CheckFailure(reason=reason)])
    call("Check", provider_pb2.CheckRequest(urn=urn(token))).rename_response(response)
    assert response.failures[0].reason == (
        f"{reason} If the property has another name in pulumi_aws, or is optional there, add a line for "
        "aws_lambda_permission to _SDK_PROPERTIES or _PHYSICAL_NAMES in xfarm/toolchain/aws_types.py."
    )


def test_the_engine_gets_a_half_created_resource_with_the_names_in_the_program() -> None:
    creation = call("Create", provider_pb2.CreateRequest(urn=urn(FUNCTION)))
    failed = provider_pb2.ErrorResourceInitFailed(id="id", properties=struct({"functionName": "f"}), reasons=["late"])
    status = status_pb2.Status(code=2, message="missing 'functionName'")
    status.details.add().Pack(failed)
    renamed = status_pb2.Status.FromString(rename_details(status.SerializeToString(), creation))
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


def test_another_region_for_a_single_resource_is_refused() -> None:
    with pytest.raises(UserError, match="us-east-1"):
        call("Check", provider_pb2.CheckRequest(urn=urn(QUEUE), news=struct({"region": "us-east-1"})))


def test_code_becomes_a_zip_file_and_is_an_archive_again_in_the_response(tmp_path: Path) -> None:
    asset = {SIGNATURE: "c44067f5952c0a294b673a41bacd8c17", "text": "x = 1"}
    code = {SIGNATURE: ARCHIVE, "hash": "abc", "assets": {"main.py": asset}}
    request = provider_pb2.CreateRequest(urn=urn(FUNCTION), properties=struct({"code": code}))
    creation = call("Create", request, tmp_path)
    assert request.properties["filename"] == f"{tmp_path.name}/abc.zip"
    assert (tmp_path / "abc.zip").exists()
    response = provider_pb2.CreateResponse(properties=request.properties)
    creation.rename_response(response)
    assert plain(response.properties)["code"] == code


def test_a_diff_of_code_writes_no_zip_file(tmp_path: Path) -> None:
    code = {SIGNATURE: ARCHIVE, "hash": "abc"}
    request = provider_pb2.DiffRequest(urn=urn(FUNCTION), olds=struct({"code": code}), news=struct({"code": code}))
    call("Diff", request, tmp_path)
    assert request.olds["filename"] == request.news["filename"] == f"{tmp_path.name}/abc.zip"
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
def test_a_refresh_shows_no_change_if_the_meaning_is_the_same(known: dict[str, Any], found: dict[str, Any]) -> None:
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


def test_a_refresh_shows_a_change_of_a_mirror_that_the_program_sets() -> None:
    found = {"inlinePolicies": [{"name": "changed"}]}
    assert read(ROLE, {"inlinePolicies": [{"name": "asked"}]}, {"inlinePolicies": [{"name": "asked"}]}, found) == found


def test_the_raw_state_matches_the_restored_properties() -> None:
    def raw_state(**properties: object) -> dict[str, Any]:
        return {"__pulumi_raw_state_delta": {"obj": {"ps": properties}}}

    empty: dict[str, object] = {}
    known = {"tags": empty, "a": 1} | raw_state(tags={"map": {}})
    found = {"a": 2, "layers": empty} | raw_state(layers={"arr": {}})
    assert read(ROLE, {}, known, found) == {"tags": {}, "a": 2} | raw_state(tags={"map": {}})


@pytest.mark.parametrize(
    ("state", "old_input", "change"),
    [
        ('{"a":1}', '{"a": 1}', provider_pb2.DiffResponse.DIFF_NONE),
        ('{"a":2}', '{"a": 1}', provider_pb2.DiffResponse.DIFF_SOME),
        ('{"a":1}', '{"a": 2}', provider_pb2.DiffResponse.DIFF_SOME),
    ],
)
def test_a_plan_to_write_a_json_document_with_other_spaces_is_no_change(
    state: str, old_input: str, change: int
) -> None:
    request = provider_pb2.DiffRequest(
        urn=urn("aws:sqs/redrivePolicy:RedrivePolicy"),
        news=struct({"redrivePolicy": '{"a": 1}'}),
        old_inputs=struct({"redrivePolicy": old_input}),
        olds=struct({"redrivePolicy": state}),
    )
    diff = call("Diff", request)
    response = provider_pb2.DiffResponse(changes=provider_pb2.DiffResponse.DIFF_SOME, diffs=["redrivePolicy"])
    diff.rename_response(response)
    assert response.changes == change
