"""A stack of the real engine: inline programs through the Automation API, state in a folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from pulumi import automation as auto

STACK, PROJECT = "test", "engine-tests"


@dataclass
class Engine:
    """One stack.

    Attributes:
        directory: everything that the stack leaves behind.
        path: PATH for the CLI.
        home: Pulumi's home folder.
        cli: the CLI.
        environment: more variables for the CLI and the plugins.
        events: all events of all runs, as JSON, without debug lines.
    """

    directory: Path
    path: str
    home: Path
    cli: Path
    environment: dict[str, str] = field(default_factory=dict)
    events: list[dict[str, Any]] = field(default_factory=list)

    def variables(self) -> dict[str, str]:
        """The CLI's environment."""
        return {
            "PATH": self.path,
            "PULUMI_HOME": str(self.home),
            "PULUMI_BACKEND_URL": f"file://{self.backend}",
            "PULUMI_CONFIG_PASSPHRASE": "a passphrase for tests",
            "PULUMI_SKIP_UPDATE_CHECK": "true",
            "PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION": "true",
            "SESSION_STORE_GRACE_SECONDS": "0",
            **self.environment,
        }

    @property
    def backend(self) -> Path:
        folder = self.directory / "backend"
        folder.mkdir(exist_ok=True)
        return folder

    @cached_property
    def stack(self) -> auto.Stack:
        """The stack; `environment` is read when it is first used."""
        work = self.directory / "work"
        work.mkdir(exist_ok=True)
        root = self.directory / "cli"
        if not root.exists():
            (root / "bin").mkdir(parents=True)
            (root / "bin" / "pulumi").symlink_to(self.cli)
        return auto.create_or_select_stack(
            STACK,
            project_name=PROJECT,
            program=lambda: None,
            opts=auto.LocalWorkspaceOptions(
                work_dir=str(work),
                env_vars=self.variables(),
                pulumi_home=str(self.home),
                pulumi_command=auto.PulumiCommand(str(root), skip_version_check=True),
                project_settings=auto.ProjectSettings(
                    PROJECT, "python", backend=auto.ProjectBackend(f"file://{self.backend}")
                ),
            ),
        )

    def _record(self, event: auto.EngineEvent) -> None:
        # The Python SDK sends debug lines that hold every registered property, secrets too. No display shows them, and
        # nobody may write them down.
        if not (event.diagnostic_event and event.diagnostic_event.severity == "debug"):
            self.events.append(json.loads(json.dumps(event, default=vars)))

    def up(self, program: Callable[[], None]) -> dict[str, int]:
        """Run `up`; counts of operations by name, without what stays the same."""
        done = self.stack.up(program=program, on_event=self._record)
        return {name: count for name, count in (done.summary.resource_changes or {}).items() if name != "same"}

    def preview(self, program: Callable[[], None]) -> dict[str, int]:
        """Run `preview`; counts of planned operations, without what stays the same."""
        done = self.stack.preview(program=program, on_event=self._record)
        return {
            str(getattr(name, "value", name)): count for name, count in done.change_summary.items() if name != "same"
        }

    def failure(self, run: Callable[[Callable[[], None]], Any], program: Callable[[], None]) -> str:
        """Run what must fail; everything that the user then sees."""
        try:
            run(program)
        except auto.CommandError as error:
            return str(error)
        raise AssertionError("the run did not fail")

    def outputs(self) -> dict[str, Any]:
        return {name: output.value for name, output in self.stack.outputs().items()}

    def refresh(self) -> dict[str, int]:
        done = self.stack.refresh(on_event=self._record)
        return {name: count for name, count in (done.summary.resource_changes or {}).items() if name != "same"}

    def destroy(self) -> None:
        self.stack.destroy(on_event=self._record)

    @property
    def state_file(self) -> Path:
        return self.backend / ".pulumi" / "stacks" / PROJECT / f"{STACK}.json"

    def resources(self) -> dict[str, dict[str, Any]]:
        """The state's resources by the last part of their URN."""
        deployment = json.loads(self.state_file.read_text())["checkpoint"]["latest"]
        return {item["urn"].split("::")[-1]: item for item in deployment.get("resources") or []}

    def written(self) -> str:
        """All text that runs left behind: state, its backups, work files, events."""
        files = [
            path
            for path in self.directory.rglob("*")
            if path.is_file() and not path.is_relative_to(self.directory / "cli")
        ]
        return "\n".join(path.read_text(errors="replace") for path in files) + json.dumps(self.events, default=str)
