"""README, CONTRIBUTING and docs: links, length, and what they say of commands, settings and messages."""

import re
from pathlib import Path

import click
import pytest
import yaml

import noxfile
from tests.support import docs
from xfarm.cli import xfarm
from xfarm.orchestrator.graph import dependencies
from xfarm.paths import ROOT, STACKS

DOCS = ROOT / "docs"
COMMANDS = DOCS / "commands.md"
SHOWN_ELSEWHERE = {"BucketAlreadyExists"}
"""The messages in the page on troubleshooting that are AWS's own."""

by_name = pytest.mark.parametrize("page", docs.PAGES, ids=lambda page: page.name)


@by_name
def test_no_link_is_dead(page: Path) -> None:
    for link in docs.links(page):
        if not link.startswith("https://"):
            path, _, anchor = link.partition("#")
            target = (page.parent / path).resolve() if path else page
            assert target.exists(), f"{page.name} links to {link}, which does not exist"
            assert not anchor or anchor in docs.anchors(target), f"{page.name} links to {link}: no such heading"


@by_name
def test_every_shell_block_is_read(page: Path) -> None:
    assert len(docs.blocks(page)) == page.read_text(encoding="utf-8").count("```sh\n")


def test_every_page_can_be_reached_from_the_readme() -> None:
    reached: set[Path] = set()
    new = {docs.README}
    while new:
        reached |= new
        targets = {(page.parent / link.partition("#")[0]).resolve() for page in new for link in docs.links(page)}
        new = {target for target in targets if target.suffix == ".md" and target.exists()} - reached
    assert reached == set(docs.PAGES)


def test_the_readme_is_short() -> None:
    assert len(docs.README.read_text(encoding="utf-8").splitlines()) <= 150


def folders(parent: Path) -> set[str]:
    """Return the folders that hold something of the project, as the README writes them."""
    found = {path for path in parent.iterdir() if path.is_dir() and path.name[0] not in "._" and any(path.iterdir())}
    return {f"`{path.relative_to(ROOT)}/`" for path in found}


def test_the_readme_says_what_is_in_each_folder() -> None:
    listed = {cells[0] for cells in docs.table(docs.README, "folder", "contents")}
    assert listed == folders(ROOT) | folders(ROOT / "xfarm")


@by_name
def test_every_command_exists_and_takes_its_options(page: Path) -> None:
    shown = [*docs.code_spans(page), *(command for block in docs.blocks(page).values() for command in block)]
    for text in shown:
        for part in re.split(r"&& |\$\(", text.rstrip('")')):
            words = part.strip().removeprefix(".venv/bin/").split()
            if words[:2] == ["nox", "-s"]:
                _, _, session, *rest = words
                assert session in noxfile.nox.registry.get(), f"{page.name} shows `{text}`: there is no such session"
                words = ["xfarm", session, *rest[1:]]
                if session not in xfarm.commands:
                    continue
            if words[:1] != ["xfarm"] or len(words) == 1 or "COMMAND" in words or re.search(r"[\[{]|\.\.\.$", text):
                continue
            assert words[1] in xfarm.commands, f"{page.name} shows `{text}`: there is no such command"
            # Raises where an option or an argument is wrong.
            xfarm.commands[words[1]].make_context(words[1], words[2:])


def options(command: click.Command) -> dict[str, str]:
    """Return the options of a command as people type them, and what their help says."""
    return {
        f"{option.opts[0]} {option.metavar}" if option.metavar else option.opts[0]: option.help or ""
        for option in command.params
        if isinstance(option, click.Option)
    }


def test_the_reference_lists_every_command_with_its_options() -> None:
    expected = []
    for name, command in xfarm.commands.items():
        _, *arguments = command.collect_usage_pieces(click.Context(command, info_name=name))
        usage = " ".join(("xfarm", name, *arguments)).replace("|", r"\|")
        expected.append([f"`{usage}`", command.help, ", ".join(f"`{option}`" for option in options(command))])
    assert docs.table(COMMANDS, "command", "what it does", "options") == expected


def test_the_reference_explains_every_option() -> None:
    known: dict[str, str] = {}
    for command in xfarm.commands.values():
        known |= options(command)
    explained = {cells[0].strip("`"): cells[1] for cells in docs.table(COMMANDS, "option", "what it does")}
    assert explained == known


def test_the_reference_has_the_exit_codes_that_the_help_names() -> None:
    codes = ", ".join(" ".join(cells) for cells in docs.table(COMMANDS, "code", "meaning"))
    assert xfarm.epilog == f"Exit codes: {codes}."


def test_the_page_of_settings_lists_each_with_its_default() -> None:
    declared: dict[str, str] = {}
    for project in dependencies():
        config = yaml.safe_load((STACKS / project / "Pulumi.yaml").read_text(encoding="utf-8"))["config"]
        declared |= {f"{project}:{key}": str(setting["default"]) or "none" for key, setting in config.items()}
    listed = docs.table(DOCS / "settings.md", "setting", "default", "meaning")
    assert {cells[0].strip("`"): cells[1].strip("`") for cells in listed} == declared


def test_the_messages_of_the_page_on_troubleshooting_are_those_of_the_code() -> None:
    sources = [file.read_text(encoding="utf-8") for room in ("xfarm", "shared") for file in (ROOT / room).rglob("*.py")]
    # As they are at run time: literals that follow one another are one.
    code = re.sub(r'"\s+f?"', "", "\n".join(sources))
    for message, _ in docs.table(DOCS / "troubleshooting.md", "message", "cause and remedy"):
        for part in message.strip("`").split("..."):
            assert part.strip("' ") in code or message.strip("`") in SHOWN_ELSEWHERE, message


def test_dependabot_looks_where_there_is_something() -> None:
    config = yaml.safe_load((ROOT / ".github" / "dependabot.yml").read_text(encoding="utf-8"))
    for update in config["updates"]:
        if update["package-ecosystem"] == "gomod":
            assert update["directories"] == [f"/{path.parent.relative_to(ROOT)}" for path in modules()]


def modules() -> list[Path]:
    return sorted(path for room in ("tests", "xfarm") for path in (ROOT / room).rglob("go.mod"))
