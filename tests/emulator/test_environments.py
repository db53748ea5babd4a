"""Which variables change what a command does, and how: each command under each of them, for `local` and for `dev`."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path

import boto3
import pytest

from tests.support import every_command
from tests.support.checkout import free_port
from tests.support.emulated_pipeline import create_pipeline, running
from tests.support.every_command import DEV, LOCAL, Done, Setup
from xfarm.emulator.server import REGION, Emulator
from xfarm.orchestrator.graph import dependencies
from xfarm.paths import ROOT

Variables = dict[str, str | None]
"""Variables with their values; None for one that is not set."""

NO_KEYS: Variables = {"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None}
NOWHERE = "http://127.0.0.1:9"
UNUSABLE = "error: a setting for AWS can't be used, in a variable AWS_... or in a file that one names: "
NOT_A_URL = " is not a URL such as http://HOST:PORT: correct it, or unset it."
NO_BACKEND = "error: PULUMI_BACKEND_URL is not a URL such as s3://BUCKET or file:///FOLDER: correct it, or unset it."


@dataclass(frozen=True)
class Case:
    """Variables, and what the program does about them.

    Attributes:
        variables: The variables.
        local: What commands for `local` say on standard error; empty if the variables change nothing.
        dev: The same for `dev`.
        umask: The permissions that new files don't get.
        nameless: Whether the user has no name and no home folder.
        fresh: Whether Python reads the variables when it starts.
    """

    variables: Variables
    local: str = ""
    dev: str = ""
    umask: int = -1
    nameless: bool = False
    fresh: bool = False


TABLE = [
    # Which account and region. `local` ignores all variables of AWS and Pulumi.
    Case({"AWS_PROFILE": "none"}, dev="error: The config profile (none) could not be found: set AWS_PROFILE to"),
    Case({"AWS_DEFAULT_PROFILE": "none"}, dev="error: The config profile (none) could not be found: set AWS_PROFILE"),
    Case({"AWS_ACCESS_KEY_ID": "A\nB"}, dev="error: AWS_ACCESS_KEY_ID contains a line break, perhaps from copying"),
    Case({"AWS_SECRET_ACCESS_KEY": '"S"'}, dev="error: AWS_SECRET_ACCESS_KEY contains a quote, perhaps from copying"),
    Case({"AWS_SECRET_ACCESS_KEY": None}, dev="error: no complete AWS credentials were found: set AWS_ACCESS_KEY_ID"),
    Case({"AWS_SESSION_TOKEN": "t "}, dev="error: AWS_SESSION_TOKEN contains a space, perhaps from copying"),
    Case({"AWS_SESSION_TOKEN": ""}),
    Case({"AWS_REGION": "nowhere"}, dev="error: AWS_REGION, or the region of your profile, is not a region"),
    Case({"AWS_REGION": None, "AWS_DEFAULT_REGION": None}, dev="error: no AWS region is set: set AWS_REGION"),
    Case({"AWS_DEFAULT_REGION": "nowhere"}),
    Case({"AWS_ASSUME_ROLE": "nonsense"}, dev="error: the role 'nonsense' in AWS_ASSUME_ROLE may not be assumed"),
    Case({"AWS_CREDENTIAL_EXPIRATION": "x"}, dev="error: AWS_CREDENTIAL_EXPIRATION is not a time in ISO 8601"),
    Case({"AWS_CREDENTIAL_EXPIRATION": "2000-01-01"}, dev="error: your AWS credentials ended at 2000-01-0"),
    Case({"AWS_CONFIG_FILE": "/none", "AWS_SHARED_CREDENTIALS_FILE": "/none"}),
    Case({"AWS_CONFIG_FILE": sys.executable}, dev="error: Unable to parse config file"),
    Case(NO_KEYS | {"AWS_WEB_IDENTITY_TOKEN_FILE": "/none", "AWS_ROLE_ARN": "arn"}, dev=UNUSABLE + "[Errno 2] No such"),
    Case(NO_KEYS | {"AWS_CONTAINER_CREDENTIALS_FULL_URI": "http://example.com"}, dev=UNUSABLE + "Unsupported host"),
    # How AWS is reached.
    Case({"AWS_ENDPOINT_URL": "nonsense"}, dev=f"error: AWS_ENDPOINT_URL{NOT_A_URL}"),
    Case({"AWS_ENDPOINT_URL": "http://[::1"}, dev=f"error: AWS_ENDPOINT_URL{NOT_A_URL}"),
    Case({"AWS_ENDPOINT_URL_S3": "http://host:port"}, dev=f"error: AWS_ENDPOINT_URL_S3{NOT_A_URL}"),
    Case({"AWS_ENDPOINT_URL": NOWHERE}, dev="error: Could not connect to the endpoint URL"),
    Case({"AWS_ENDPOINT_URL_S3": ""}),
    Case({"AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "false"}),
    Case({"AWS_CA_BUNDLE": "/none", "REQUESTS_CA_BUNDLE": "/none", "SSL_CERT_FILE": "/none"}),
    Case({"AWS_USE_FIPS_ENDPOINT": "true", "AWS_USE_DUALSTACK_ENDPOINT": "true"}),
    Case({"AWS_MAX_ATTEMPTS": "x"}, dev=UNUSABLE + "invalid literal for int() with base 10: 'x'. Correct it"),
    Case({"AWS_MAX_ATTEMPTS": "0"}, dev='error: Value provided to "max_attempts": 0 must be an integer'),
    Case({"AWS_RETRY_MODE": "x"}, dev='error: Invalid value provided to "mode": "x" must be one of'),
    Case({"AWS_DEFAULTS_MODE": "x"}, dev="error: Client configured with invalid defaults mode: x."),
    Case({"AWS_STS_REGIONAL_ENDPOINTS": "x"}, dev="error: STS regional endpoints option x is invalid."),
    Case({"AWS_REQUEST_CHECKSUM_CALCULATION": "x"}, dev="error: Unsupported configuration value"),
    Case({"AWS_DATA_PATH": "/none", "BOTO_CONFIG": "/none", "AWS_EXECUTION_ENV": "a\nb", "AWS_SDK_UA_APP_ID": "a b"}),
    Case({"HTTP_PROXY": NOWHERE}, dev='error: Failed to connect to proxy URL: "http://127.0.0.1:9"'),
    Case({"http_proxy": NOWHERE}, dev='error: Failed to connect to proxy URL: "http://127.0.0.1:9"'),
    Case({"HTTPS_PROXY": NOWHERE, "https_proxy": NOWHERE, "ALL_PROXY": NOWHERE, "FTP_PROXY": NOWHERE}),
    Case({"HTTP_PROXY": NOWHERE, "NO_PROXY": "127.0.0.1"}),
    Case({"HTTP_PROXY": NOWHERE, "NO_PROXY": "*"}),
    Case({"NO_PROXY": "internal, .example.org", "no_proxy": ""}),
    # Pulumi, whose engine none of these commands runs.
    Case({"PULUMI_BACKEND_URL": "nonsense"}, dev=NO_BACKEND),
    Case({"PULUMI_BACKEND_URL": "s3://"}, dev=NO_BACKEND),
    Case({"PULUMI_BACKEND_URL": "http://["}, dev=NO_BACKEND),
    Case({"PULUMI_ACCESS_TOKEN": "t\r\n"}, dev="error: PULUMI_ACCESS_TOKEN contains a line break, perhaps from"),
    Case({"PULUMI_ACCESS_TOKEN": "pul-0123456789"}),
    Case({"PULUMI_CONFIG_PASSPHRASE": "another one"}),
    Case({"PULUMI_CONFIG_PASSPHRASE_FILE": "/none", "PULUMI_HOME": "/none", "PULUMI_STACK": "x", "PULUMI_DEBUG": "1"}),
    # GitHub and CI.
    Case({"CI": "true", "GITHUB_ACTIONS": "true"}),
    Case({"GITHUB_TOKEN": "t\n"}, dev="error: GITHUB_TOKEN contains a line break, perhaps from copying"),
    # What is in another place.
    Case({"HOME": None}),
    Case({"HOME": None}, nameless=True, local="error: HOME is not set, and your user has no home folder: set HOME"),
    Case({"HOME": "/dev/null"}),
    Case({"XDG_CACHE_HOME": "/dev/null", "XDG_CONFIG_HOME": "/none", "XDG_DATA_HOME": "/none", "XDG_RUNTIME_DIR": ""}),
    Case({"TMPDIR": "/none"}),
    Case({"PATH": None}, dev="error: the Pulumi CLI is not on your PATH: install it"),
    Case({"GATEWAY_PORT": "x"}, local="error: GATEWAY_PORT is 'x': set it to a port number, 1 to 65535, or unset it."),
    Case({"GATEWAY_PORT": ""}, local="error: this checkout's AWS emulator runs at port "),
    # Who the user is.
    Case({"USER": None, "LOGNAME": None, "USERNAME": None, "LNAME": None}, nameless=True),
    Case({"USER": "CORP\\Anna Müller", "LOGNAME": "x" * 300}),
    Case({"SHELL": None, "PWD": "/none", "EDITOR": None}),
    Case({}, umask=0o077, fresh=True),
    # The terminal, and what there is none of.
    Case({"TERM": "dumb"}),
    Case({"TERM": None}),
    Case({"NO_COLOR": "1"}),
    Case({"FORCE_COLOR": "1", "CLICOLOR_FORCE": "1", "TTY_COMPATIBLE": "1", "TTY_INTERACTIVE": "1"}),
    Case({"COLUMNS": "20", "LINES": "5"}),
    Case({"COLUMNS": "wide"}),
    # Languages and encodings, which Python reads when it starts.
    Case({"LANG": "C", "LC_ALL": "C"}, fresh=True),
    Case({"LANG": "C", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, fresh=True),
    Case({"LANG": "tr_TR.UTF-8", "LC_ALL": "xx_YY.nonsense", "LANGUAGE": "de"}, fresh=True),
    Case({"PYTHONIOENCODING": "ascii"}, fresh=True),
    Case({"TZ": "Asia/Kolkata"}, fresh=True),
    Case({"TZ": "nonsense"}, fresh=True),
    # Python's own.
    Case({"PYTHONPATH": "SHADOWS"}, fresh=True),
    Case({"PYTHONSAFEPATH": "1", "PYTHONNOUSERSITE": "1", "PYTHONSTARTUP": "/none", "PYTHONHASHSEED": "1"}, fresh=True),
    Case({"PYTHONOPTIMIZE": "2", "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1"}, fresh=True),
    Case({"PYTHONWARNINGS": "error::DeprecationWarning"}, fresh=True),
]


def name(case: Case) -> str:
    """Return the name of a case: its variables."""
    variables = " ".join(f"{key}={'(unset)' if value is None else value}" for key, value in case.variables.items())
    return f"{variables}{' nameless' * case.nameless}{f' umask {case.umask:o}' if case.umask > 0 else ''}"[:100]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a checkout, a file to send, a `pulumi`, and packages with the names of this project's."""
    folder = tmp_path_factory.mktemp("environments")
    (folder / "file.csv").write_text("n\n1\n", encoding="utf-8")
    (folder / "bin").mkdir()
    (folder / "bin" / "pulumi").symlink_to("/bin/true")
    for package in ("shared", "local", "tools"):
        (folder / "shadows" / package).mkdir(parents=True)
        (folder / "shadows" / package / "__init__.py").touch()
    return folder


@pytest.fixture(scope="module")
def emulator(folder: Path) -> Iterator[Emulator]:
    with running(Emulator(folder / ".local" / "emulator", free_port())) as emulator:
        yield emulator
    emulator.stop()


@pytest.fixture(scope="module")
def setup(emulator: Emulator, folder: Path) -> Setup:
    """Return the setup with a pipeline whose function gets no files, so that all counts but theirs stay the same."""
    assert emulator.running()
    pipeline = create_pipeline(visibility_s=60)
    boto3.client("lambda").update_event_source_mapping(UUID=pipeline.event_source_mapping_id, Enabled=False)
    resources = [{"type": "pulumi:pulumi:Stack", "urn": "stack", "outputs": asdict(pipeline)}]
    state = json.dumps({"version": 3, "checkpoint": {"latest": {"resources": resources}}})
    for project, (stack, backend) in product(dependencies(), {"local": ".local/state", "dev": "state"}.items()):
        path = folder / backend / ".pulumi" / "stacks" / project / f"{stack}.json"
        path.parent.mkdir(parents=True)
        path.write_text(state, encoding="utf-8")
    return Setup(root=str(folder), file=str(folder / "file.csv"))


def environment(case: Case, emulator: Emulator, folder: Path) -> dict[str, str]:
    """Return the environment of a case."""
    variables: Variables = {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_REGION": REGION,
        "AWS_ENDPOINT_URL": emulator.endpoint,
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_MAX_ATTEMPTS": "1",
        "PULUMI_BACKEND_URL": (folder / "state").as_uri(),
        "GATEWAY_PORT": str(emulator.port),
        "HOME": str(folder),
        "PATH": f"{folder / 'bin'}{os.pathsep}{os.defpath}",
        "PYTHONIOENCODING": "utf-8",
    }
    variables |= case.variables
    if variables.get("PYTHONPATH"):
        variables["PYTHONPATH"] = str(folder / "shadows")
    return {key: value for key, value in variables.items() if value is not None}


def run(case: Case, setup: Setup, emulator: Emulator, folder: Path) -> list[Done]:
    """Run all commands in the environment of a case."""
    setup = replace(setup, nameless=case.nameless)
    given = environment(case, emulator, folder)
    if not case.fresh:
        with pytest.MonkeyPatch.context() as patch:
            for key in os.environ:
                patch.delenv(key)
            for key, value in given.items():
                patch.setenv(key, value)
            return every_command.run_all(setup)
    answer = folder / "answer.json"
    subprocess.run(
        [sys.executable, every_command.__file__, json.dumps(asdict(setup)), answer],
        env=given,
        cwd=ROOT,
        check=True,
        umask=case.umask,
    )
    return [Done(**each) for each in json.loads(answer.read_text(encoding="utf-8"))]


def constant(text: str) -> str:
    """Return a text without colours, and without numbers, of which some count the files sent so far, and widths."""
    text = re.sub(r"(:\d\d)\.\d+(?=\+)", r"\1", text)  # one time in a thousand has no milliseconds
    return re.sub(r"\d+", "N", re.sub(" +", " ", re.sub(r"\x1b\[[0-9;]*m", "", text)))


@pytest.fixture(scope="module")
def usual(setup: Setup, emulator: Emulator, folder: Path) -> dict[str, Done]:
    """Return what each command does without further variables, after a file was sent."""
    run(Case({}), setup, emulator, folder)
    done = {each.command: each for each in run(Case({}), setup, emulator, folder)}
    assert not [each for each in done.values() if each.code]
    assert "bucket_name = " in done["outputs"].out
    return done


@pytest.mark.parametrize("case", TABLE, ids=name)
def test_each_command_under_each_variable(
    case: Case, setup: Setup, emulator: Emulator, folder: Path, usual: dict[str, Done]
) -> None:
    done = run(case, setup, emulator, folder)
    for commands, says in ((LOCAL, case.local), (DEV, case.dev)):
        names = [" ".join(each) for each in commands]
        found = [each for each in done if each.command in names]
        assert [each.command for each in found] == names
        refused = [each for each in found if says and says in each.err]
        assert {each.command for each in refused} >= (set(names) - UNAFFECTED if says else set())
        for each in found:
            assert "Traceback" not in each.err, each
            if each in refused:
                assert (each.code, each.out) == (1, ""), each
            else:
                assert each.code == usual[each.command].code, each
                if each.command != "env":  # which prints the difference to the environment that it has
                    assert constant(each.out) == constant(usual[each.command].out), each


UNAFFECTED = {"bootstrap", "check", "emulator status", "bootstrap dev"}
"""The commands that need less than the others, and so look at fewer variables."""
