"""One AWS plugin for several engines: which engine gets which bridge and which messages."""

import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Thread
from typing import Any

import grpc
import pytest
from google.protobuf import empty_pb2
from pulumi.runtime.proto import engine_pb2, engine_pb2_grpc, plugin_pb2, provider_pb2, provider_pb2_grpc
from typing_extensions import override

from tests.support.waiting import eventually
from xfarm.file_locks import share
from xfarm.toolchain import proxy, sharing
from xfarm.toolchain.sharing import Engines, SharedProxy

TYPES = {"aws:sqs/queue:Queue", "aws:ec2/vpc:Vpc"}
URN = "urn:pulumi:local::{project}::aws:sqs/queue:Queue::queue"
REFUSED = "no such region"
NOWHERE = "nowhere"


class Engine(engine_pb2_grpc.EngineServicer):
    """An engine, as a plugin sees it."""

    def __init__(self) -> None:
        self.logged: list[str] = []

    @override
    def Log(self, request: engine_pb2.LogRequest, context: grpc.ServicerContext) -> empty_pb2.Empty:
        self.logged.append(request.message)
        return empty_pb2.Empty()


class Bridge(provider_pb2_grpc.ResourceProviderServicer):
    """A bridge that responds with the region that it was configured for."""

    def __init__(self) -> None:
        self.configured: list[str] = []

    @override
    def Configure(
        self, request: provider_pb2.ConfigureRequest, context: grpc.ServicerContext
    ) -> provider_pb2.ConfigureResponse:
        if (region := request.variables["aws:config:region"]) == NOWHERE:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, REFUSED)
        self.configured.append(region)
        return provider_pb2.ConfigureResponse(acceptSecrets=True)

    @override
    def Check(self, request: provider_pb2.CheckRequest, context: grpc.ServicerContext) -> provider_pb2.CheckResponse:
        if "ec2Vpc" in request.urn:  # in Terraform it is aws_vpc
            context.abort(grpc.StatusCode.UNKNOWN, "[pf/tfbridge] unknown resource token: aws:index/ec2Vpc:Ec2Vpc")
        response = provider_pb2.CheckResponse()
        response.inputs["name"] = self.configured[-1]
        return response


Serve = Callable[[Callable[[grpc.Server], Any]], tuple[grpc.Server, str]]


@pytest.fixture
def serve() -> Iterator[Serve]:
    servers: list[grpc.Server] = []

    def serve(register: Callable[[grpc.Server], Any]) -> tuple[grpc.Server, str]:
        server = grpc.server(ThreadPoolExecutor(8))
        register(server)
        address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        server.start()
        servers.append(server)
        return server, address

    yield serve
    for server in servers:
        server.stop(None).wait()


class Plugin:
    """A shared plugin, its bridges, and the engines that are attached to it."""

    def __init__(self, serve: Serve, zips: Path, projects: Path) -> None:
        self.engines = Engines()
        self.bridges: list[Bridge] = []
        self.killed: list[int] = []
        self._serve = serve
        shared = SharedProxy(self.engines, self._start, zips, TYPES, projects)
        _, self.address = serve(lambda server: server.add_generic_rpc_handlers((shared,)))

    def _start(self) -> proxy.Bridge:
        self.bridges.append(bridge := Bridge())
        number = len(self.bridges) - 1
        _, address = self._serve(
            lambda server: provider_pb2_grpc.add_ResourceProviderServicer_to_server(bridge, server)
        )
        return proxy.Bridge(grpc.insecure_channel(address), lambda: self.killed.append(number))

    def attach(self, address: str) -> provider_pb2_grpc.ResourceProviderStub:
        """Attach an engine, over a connection that no other engine shares."""
        channel = grpc.insecure_channel(self.address, options=[("grpc.use_local_subchannel_pool", 1)])
        stub = provider_pb2_grpc.ResourceProviderStub(channel)
        stub.Attach(plugin_pb2.PluginAttach(address=address))
        return stub


@pytest.fixture
def plugin(serve: Serve, tmp_path: Path) -> Plugin:
    return Plugin(serve, tmp_path / "zips", tmp_path / "projects")


def engine(serve: Serve) -> tuple[Engine, grpc.Server, str]:
    made = Engine()
    return made, *serve(lambda server: engine_pb2_grpc.add_EngineServicer_to_server(made, server))


def settings(region: str, urn: str = "") -> provider_pb2.ConfigureRequest:
    return provider_pb2.ConfigureRequest(variables={"aws:config:region": region}, urn=urn)


def checked(stub: provider_pb2_grpc.ResourceProviderStub, project: str) -> str:
    return stub.Check(provider_pb2.CheckRequest(urn=URN.format(project=project))).inputs["name"]


def test_engines_with_the_same_settings_share_a_bridge_which_is_configured_once(serve: Serve, plugin: Plugin) -> None:
    for project in ("storage", "messaging"):
        stub = plugin.attach(engine(serve)[2])
        assert stub.Configure(settings("eu-west-1", urn=project)).acceptSecrets
        assert checked(stub, project) == "eu-west-1"
    assert [bridge.configured for bridge in plugin.bridges] == [["eu-west-1"]]


def test_an_engine_with_other_settings_gets_a_bridge_of_its_own(serve: Serve, plugin: Plugin) -> None:
    regions = ("eu-west-1", "us-east-1", "eu-west-1")
    stubs = [plugin.attach(engine(serve)[2]) for _ in regions]
    for region, stub in zip(regions, stubs, strict=True):
        stub.Configure(settings(region))
    assert [checked(stub, "storage") for stub in stubs] == list(regions)
    assert sorted(bridge.configured for bridge in plugin.bridges) == [["eu-west-1"], ["us-east-1"]]


def test_a_bridge_is_killed_after_its_engines_when_other_settings_need_one_but_never_the_first(
    serve: Serve, plugin: Plugin
) -> None:
    numbers = itertools.count()

    def configure() -> tuple[provider_pb2_grpc.ResourceProviderStub, grpc.Server]:
        _, server, address = engine(serve)
        stub = plugin.attach(address)
        stub.Configure(settings(f"region-{next(numbers)}"))
        return stub, server

    servers = [configure()[1] for _ in range(2)]
    configure()
    assert plugin.killed == []
    for server in servers:
        server.stop(None).wait()
    eventually(lambda: configure() and plugin.killed, seconds=60)
    assert plugin.killed == [1]
    stub = plugin.attach(engine(serve)[2])
    stub.Configure(settings("region-0"))
    assert checked(stub, "storage") == "region-0"


def test_settings_that_were_refused_may_be_accepted_later(
    serve: Serve, plugin: Plugin, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub = plugin.attach(engine(serve)[2])
    with pytest.raises(grpc.RpcError, match=REFUSED):
        stub.Configure(settings("nowhere"))
    monkeypatch.setattr("tests.unit.test_toolchain_sharing.NOWHERE", "")
    stub.Configure(settings("nowhere"))
    assert checked(stub, "storage") == "nowhere"


def test_wrong_settings_are_refused_for_each_engine(serve: Serve, plugin: Plugin) -> None:
    for _ in range(2):
        with pytest.raises(grpc.RpcError, match=REFUSED):
            plugin.attach(engine(serve)[2]).Configure(settings("nowhere"))


def test_the_error_for_a_type_with_an_irregular_name_in_terraform_names_the_table(serve: Serve, plugin: Plugin) -> None:
    stub = plugin.attach(engine(serve)[2])
    stub.Configure(settings("eu-west-1"))
    with pytest.raises(
        grpc.RpcError, match=r"aws_ec2_vpc.*aws:ec2/vpc:Vpc.*_TERRAFORM_NAMES in xfarm/toolchain/aws_types"
    ):
        stub.Check(provider_pb2.CheckRequest(urn="urn:pulumi:local::storage::aws:ec2/vpc:Vpc::network"))


def test_the_error_for_a_type_that_was_not_found_in_the_programs_says_how_to_write_it(
    serve: Serve, plugin: Plugin
) -> None:
    stub = plugin.attach(engine(serve)[2])
    stub.Configure(settings("eu-west-1"))
    with pytest.raises(grpc.RpcError, match=r"aws:ssm/parameter:Parameter .* write it as aws\.MODULE\.CLASS"):
        stub.Check(provider_pb2.CheckRequest(urn="urn:pulumi:local::storage::aws:ssm/parameter:Parameter::value"))


def test_a_message_goes_to_the_engine_of_its_stack_or_to_all_if_it_has_none(serve: Serve, plugin: Plugin) -> None:
    engines = {}
    for project in ("storage", "messaging"):
        engines[project], _, address = engine(serve)
        stub = plugin.attach(address)
        stub.Configure(settings("eu-west-1"))
        checked(stub, project)
    _, address = serve(lambda server: engine_pb2_grpc.add_EngineServicer_to_server(plugin.engines, server))
    bridge = engine_pb2_grpc.EngineStub(grpc.insecure_channel(address))
    bridge.Log(engine_pb2.LogRequest(message="deprecated", urn=URN.format(project="messaging")))
    bridge.Log(engine_pb2.LogRequest(message="hello"))
    assert engines["storage"].logged == ["hello"]
    assert engines["messaging"].logged == ["deprecated", "hello"]


def test_the_plugin_ends_once_no_engine_and_no_command_uses_it(
    serve: Serve, plugin: Plugin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharing, "IDLE_S", 0.1)
    users = tmp_path / "users"
    command = users.open("a+")
    share(command)
    servers = []
    for _ in range(2):
        _, server, address = engine(serve)
        plugin.attach(address)
        servers.append(server)
    waiting = Thread(target=plugin.engines.wait_until_unused, args=(users,), daemon=True)
    waiting.start()
    for release in (*(lambda server=server: server.stop(None).wait() for server in servers), command.close):
        waiting.join(0.5)
        assert waiting.is_alive()
        release()
    waiting.join(10)
    assert not waiting.is_alive()
