"""Lambda, functions: they depend on their role, and on the permission to pass it.

In ministack:

- A function still works after its role was deleted and created again.
- Nobody needs `iam:PassRole` to give a function a role.
"""

from http import HTTPStatus
from typing import Any

from ministack.services import iam, lambda_svc

from xfarm.emulator.patches import patch
from xfarm.emulator.patches.iam import refused_role

_create_function = lambda_svc._create_function
_update_config = lambda_svc._update_config
_execute_function_dispatch = lambda_svc._execute_function_dispatch


@patch(lambda_svc, "_create_function")
def create_function(data: dict[str, Any]) -> Any:  # noqa: ANN401 - ministack's response
    """Answer CreateFunction, and record the ID of the role that may decrypt the function's environment."""
    if refused := refused_role(data["Role"]):
        return refused
    answer = _create_function(data)
    if answer[0] == HTTPStatus.CREATED:
        lambda_svc._functions[data["FunctionName"]]["granted_to"] = _role_id(data["Role"])
    return answer


@patch(lambda_svc, "_update_config")
def update_config(name: str, data: dict[str, Any]) -> Any:  # noqa: ANN401 - as in ministack
    """Answer UpdateFunctionConfiguration, and record the ID of a new role that may decrypt the environment."""
    function = lambda_svc._functions.get(name)
    before = function and function["config"]["Role"]
    if "Role" in data and (refused := refused_role(data["Role"])):
        return refused
    answer = _update_config(name, data)
    if function and data.get("Role", before) != before:
        function["granted_to"] = _role_id(data["Role"])
    return answer


@patch(lambda_svc, "_execute_function_dispatch")
def execute_function_dispatch(func: dict[str, Any], config: dict[str, Any], *args: Any) -> dict[str, Any]:  # noqa: ANN401 - as in ministack
    """Run a function, or fail if its role was deleted and created again and can't decrypt its environment.

    Lambda encrypts the environment with a KMS key. It grants the key's use to the current role when the function is
    created, or gets another role ("Resource: aws_lambda_function" in the documentation of Terraform's AWS provider, on
    KMSAccessDeniedException).
    """
    granted = func.get("granted_to")
    if granted and config.get("Environment", {}).get("Variables") and granted != _role_id(config["Role"]):
        message = "Lambda was unable to decrypt the environment variables because KMS access was denied."
        return {"error": True, "body": {"errorType": "KMSAccessDeniedException", "errorMessage": message}}
    return _execute_function_dispatch(func, config, *args)


def _role_id(arn: str) -> str | None:
    role = iam._roles.get(arn.rpartition("/")[2])
    return role and role["RoleId"]
