"""Every make target is listed, dry-runs, and the documents name no other."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = re.findall(r"^([a-z-]+):.* ## ", MAKEFILE, re.M)


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}
    return subprocess.run(
        ["make", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("target", TARGETS)
def test_target_dry_runs(target: str) -> None:
    done = make("--dry-run", target)
    assert (done.returncode, done.stderr) == (0, "")


def test_help_lists_every_target() -> None:
    assert [line.split()[0] for line in make().stdout.splitlines()] == TARGETS
    phony = re.search(r"^\.PHONY: (.*)$", MAKEFILE, re.M)
    assert phony is not None
    assert phony[1].split() == TARGETS


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_documents_name_existing_targets(document: str) -> None:
    named = set(re.findall(r"`?\bmake ([a-z]+(?:-[a-z]+)*)`", (ROOT / document).read_text()))
    assert sorted(named - set(TARGETS)) == []
