"""The roles of docs/permissions.md, in an emulator that enforces IAM, and what they did."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.support.checkout import Checkout
from xfarm.emulator.server import REGION, Emulator
from xfarm.paths import ROOT

POLICIES = ROOT / "policies"
PAGE = ROOT / "docs" / "permissions.md"
ACCOUNT = "000000000000"
USER = "anna"


def document(name: str) -> dict[str, Any]:
    """Return a policy with its placeholders filled in."""
    text = (POLICIES / f"{name}.json").read_text(encoding="utf-8")
    return json.loads(text.replace("ACCOUNT", ACCOUNT).replace("USER", USER))


def actions(name: str) -> set[str]:
    """Return all actions of a policy."""
    return {action for statement in document(name)["Statement"] for action in statement["Action"]}


@dataclass(frozen=True)
class Request:
    """A request that the emulator has allowed or denied."""

    decision: str
    principal: str
    action: str
    resource: str


class Account:
    """The account of a copy of the project, which enforces IAM until `stop` is called.

    It has the roles `xfarm-deploy` and `xfarm-operate`, and a user who may do nothing but assume them.
    """

    def __init__(self, checkout: Checkout) -> None:
        self.checkout = checkout
        self.emulator: Emulator = replace(checkout.emulator, enforces_iam=True)
        self.emulator.start()
        self.iam = checkout.client("iam")
        self.iam.create_user(UserName=USER)
        self.iam.put_user_policy(UserName=USER, PolicyName="roles", PolicyDocument=json.dumps(document("user")))
        for name in ("deploy", "operate"):
            trust = json.dumps(document("trust-user"))
            self.iam.create_role(RoleName=f"xfarm-{name}", AssumeRolePolicyDocument=trust)
            self.put_policy(name, document(name))
        key = self.iam.create_access_key(UserName=USER)["AccessKey"]
        self._keys = {"AWS_ACCESS_KEY_ID": key["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"]}

    def put_policy(self, name: str, policy: dict[str, Any]) -> None:
        """Set the policy of the role `xfarm-NAME`."""
        self.iam.put_role_policy(RoleName=f"xfarm-{name}", PolicyName=name, PolicyDocument=json.dumps(policy))

    def environment(self, role: str) -> dict[str, str]:
        """Return the variables with which a command assumes the role `xfarm-ROLE` with the user's keys."""
        return self._keys | {
            "AWS_ENDPOINT_URL": self.emulator.endpoint,
            "AWS_REGION": REGION,
            "AWS_ASSUME_ROLE": f"arn:aws:iam::{ACCOUNT}:role/xfarm-{role}",
        }

    def requests(self) -> list[Request]:
        """Return the requests of the two roles, in their order."""
        log = Path(self.emulator.directory, "log").read_text(encoding="utf-8")
        recorded = [
            Request(*json.loads(line.partition(" [iam] ")[2])) for line in log.splitlines() if " [iam] " in line
        ]
        return [each for each in recorded if ":assumed-role/xfarm-" in each.principal]

    def stop(self) -> None:
        """Stop the emulator."""
        self.emulator.stop()
