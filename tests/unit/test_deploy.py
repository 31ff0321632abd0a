"""The files of deploy/ name what exists: options, paths, targets, secrets, volumes."""

from __future__ import annotations

import configparser
import re
import shlex
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from soundstage.cli.program import app

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())


def check_command(words: list[str]) -> None:
    """Fail for a command or an option that there is not."""
    context = click.Context(app)
    command = app.get_command(context, words[0])
    assert command is not None, words[0]
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in words[1:] if word.startswith("--")} <= known, words


def words_after(text: str, start: str) -> list[str]:
    return shlex.split(re.sub(r"\$+\(.*?\)", "X", text.partition(start)[2]))


@pytest.mark.parametrize("service", ["server", "worker"])
def test_a_service_runs_a_command_that_there_is(service: str) -> None:
    check_command(words_after(COMPOSE["services"][service]["command"][0], "python -m soundstage "))


def test_images_run_a_command_that_there_is() -> None:
    found = re.findall(r"^CMD (\[.*\])$", DOCKERFILE, re.MULTILINE)
    assert len(found) == 2
    for words in found:
        check_command(yaml.safe_load(words))


def test_the_unit_runs_a_command_that_there_is() -> None:
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(DEPLOY / "soundstage.service")
    check_command(words_after(unit["Service"]["ExecStart"], "bin/soundstage "))
    assert unit["Service"]["User"] != "root"


def test_builds_name_files_and_targets_that_there_are() -> None:
    targets = set(re.findall(r"^FROM \S+ AS (\w+)$", DOCKERFILE, re.MULTILINE))
    for service in COMPOSE["services"].values():
        if "build" in service:
            build = service["build"]
            assert (DEPLOY / build["context"] / build["dockerfile"]).resolve() == DEPLOY / "Dockerfile"
            assert build["target"] in targets
    for line in re.findall(r"^COPY (.+)$", DOCKERFILE, re.MULTILINE):
        for source in line.split()[:-1]:
            assert (ROOT / source).exists(), source
            assert f"!{source.removeprefix('./')}" in (ROOT / ".dockerignore").read_text().split()


def test_secrets_and_volumes_are_declared_and_no_image_runs_as_root() -> None:
    for service in COMPOSE["services"].values():
        assert set(service.get("secrets", ())) <= set(COMPOSE["secrets"])
        assert {volume.partition(":")[0] for volume in service.get("volumes", ())} <= set(COMPOSE["volumes"])
        assert "healthcheck" in service or "build" in service
        assert set(service.get("depends_on", ())) <= set(COMPOSE["services"])
    last_stages = DOCKERFILE.split("FROM ")[2:]
    assert all("USER soundstage" in stage and "HEALTHCHECK" in stage for stage in last_stages)


def test_extras_of_the_images_exist() -> None:
    import tomllib

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for found in re.findall(r'"\.\[([\w,]+)\]"', DOCKERFILE):
        assert set(found.split(",")) <= set(extras)
