"""The Pulumi engine, driven through the Automation API with `infra` as its inline program."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

from pulumi import automation as auto
from pulumi.automation._cmd import OnOutput
from pulumi.automation.errors import StackNotFoundError, create_command_error
from semver import VersionInfo

from infra.release import Release
from ops import cli_tools, locks, programs, workspace
from ops.errors import OpsError
from ops.report import reduce_text

Event = auto.EngineEvent


class Command(auto.PulumiCommand):
    """The CLI in a process group of its own.

    A Ctrl-C at the terminal would reach the engine and us at once; this way each signal is passed on exactly once, and
    a second one makes the engine stop without waiting.
    """

    def __init__(self, path: Path) -> None:
        self.command = str(path)
        self.version = VersionInfo.parse(cli_tools.VERSION)
        self.running: subprocess.Popen[str] | None = None

    def run(
        self,
        args: list[str],
        cwd: str,
        additional_env: Mapping[str, str],
        on_output: OnOutput | None = None,
        on_error: OnOutput | None = None,
        stdin: str | None = None,
    ) -> auto.CommandResult:
        """Run the CLI to its end; see the base class. stdin: a secret, which must not be an argument."""
        environment = {**os.environ, **additional_env, "PULUMI_AUTOMATION_API": "true"}
        pipe, texts = subprocess.PIPE, ([], [])  # type: tuple[int, tuple[list[str], list[str]]]
        command = [self.command, "--non-interactive", *args]
        with subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL if stdin is None else pipe,
            stdout=pipe,
            stderr=pipe,
            cwd=cwd,
            env=environment,
            text=True,
            start_new_session=True,
        ) as process:
            self.running = process
            threads = [
                threading.Thread(target=_drain, args=(stream, kept, callback))
                for stream, kept, callback in zip(
                    (process.stdout, process.stderr), texts, (on_output, on_error), strict=True
                )
            ]
            for thread in threads:
                thread.start()
            if process.stdin:
                with contextlib.suppress(BrokenPipeError):
                    process.stdin.write(stdin or "")
                    process.stdin.close()
            process.wait()
            for thread in threads:
                thread.join()
            self.running = None
        result = auto.CommandResult("\n".join(texts[0]), "\n".join(texts[1]), process.returncode)
        if process.returncode:
            raise create_command_error(result)
        return result


def _drain(stream: Any, kept: list[str], callback: OnOutput | None) -> None:
    for line in stream:
        kept.append(line.rstrip())
        if callback:
            callback(line.rstrip())


class Engine:
    """One stack's engine.

    Attributes:
        workspace: the stack's files.
        tools: the CLI and the plugins in use.
        environment: what the engine gets on top of this process's environment.

    A stack with a release runs the program that this pins; `pins` stand in the mirror in place of the file's own.
    """

    def __init__(
        self,
        where: workspace.Workspace,
        kubeconfig: str | None,
        images: Mapping[str, str],
        release: Release | None = None,
        pins: Mapping[str, Any] | None = None,
    ) -> None:
        self.workspace = where
        self.tools = cli_tools.find()
        run = programs.pinned(release, where.state)
        workspace.write_mirror(where, images, pins)
        self.environment = dict(self.tools.environment)
        self.environment |= cli_tools.backend(where)
        self.environment |= cli_tools.passphrase(where, self.environment)
        if kubeconfig:
            self.environment["KUBECONFIG"] = kubeconfig
        self.interrupted = False
        self._command = Command(self.tools.pulumi)
        self._local = auto.LocalWorkspace(
            work_dir=str(where.directory), program=run, env_vars=self.environment, pulumi_command=self._command
        )

    def open(self, say: Callable[[str], None], create: bool = True) -> auto.Stack | None:
        """The stack, free of dead locks.

        Args:
            say: told about locks that were removed and a salt to commit.
            create: make the stack when the backend does not know it; else the answer is None.

        Raises:
            OpsError: somebody else holds the stack, or the engine cannot open it.
        """
        name = self.workspace.stack
        locks.clear({**os.environ, **self.environment}, name, say)
        try:
            stack = auto.Stack.select(name, self._local)
        except StackNotFoundError:
            if not create:
                return None
            with _readable():
                stack = auto.Stack.create(name, self._local)
        except auto.CommandError as error:
            raise OpsError(reduce_text(str(error))) from None
        if line := workspace.publish_salt(self.workspace):
            say(line)
        return stack

    def settle(self, say: Callable[[str], None]) -> int:
        """Drop the record of creations that a killed run did not finish.

        Creating again is safe, because every object is applied, not posted: what is there already is taken over.

        Returns:
            How many resources the stack's state holds.
        """
        with _readable():
            deployment = self._local.export_stack(self.workspace.stack)
            content = deployment.deployment or {}
            resources, pending = content.get("resources") or [], content.get("pending_operations") or []
            if not pending:
                return len(resources)
            names = ", ".join(sorted({operation["resource"]["urn"].rsplit("::", 1)[-1] for operation in pending}))
            say(f"A killed run left {len(pending)} operations unfinished ({names}): they are done again.")
            deployment.deployment.pop("pending_operations")  # type: ignore[union-attr]
            self._local.import_stack(self.workspace.stack, deployment)
            return len(resources)

    def resources(self) -> list[dict[str, Any]]:
        """The resources in the stack's state, secrets encrypted."""
        with _readable():
            content = self._local.export_stack(self.workspace.stack).deployment or {}
        return list(content.get("resources") or [])

    def set_output(self, name: str, value: Any) -> None:
        """Put an output beside those of the program; the next `up` drops it."""
        with _readable():
            deployment = self._local.export_stack(self.workspace.stack)
            for resource in (deployment.deployment or {}).get("resources") or []:
                if resource["type"] == "pulumi:pulumi:Stack":
                    resource["outputs"] = {**resource.get("outputs", {}), name: value}
            self._local.import_stack(self.workspace.stack, deployment)

    def outputs(self) -> dict[str, Any]:
        """The stack's outputs, secret ones masked; {} when it was never deployed."""
        with _readable():
            result = self._command.run(
                ["stack", "output", "--json", "--stack", self.workspace.stack],
                str(self.workspace.directory),
                self.environment,
            )
        return dict(json.loads(result.stdout or "{}"))

    def secret(self, key: str) -> str | None:
        """A secret configuration value, decrypted; None when there is none."""
        if key not in (workspace.read_yaml(self.workspace.mirror).get("config") or {}):
            return None
        with _readable():
            return self._config("get", key).stdout.strip()

    def set_secret(self, key: str, value: str) -> None:
        """Write an encrypted configuration value into the stack file."""
        with _readable():
            self._config("set", "--secret", key, stdin=value)
        workspace.publish_secret(self.workspace, key)

    def _config(self, *args: str, stdin: str | None = None) -> auto.CommandResult:
        command = ["config", *args, "--stack", self.workspace.stack]
        return self._command.run(command, str(self.workspace.directory), self.environment, stdin=stdin)

    @contextlib.contextmanager
    def cancellable(self) -> Iterator[None]:
        """Pass SIGINT and SIGTERM on to the engine, which finishes the steps at hand, saves the state and ends."""

        def stop(_signal: int, _frame: FrameType | None) -> None:
            self.interrupted = True
            if self._command.running:
                self._command.running.send_signal(signal.SIGINT)

        before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@contextlib.contextmanager
def _readable() -> Iterator[None]:
    """Turn an engine error into one that an operator reads."""
    try:
        yield
    except auto.CommandError as error:
        raise OpsError(reduce_text(str(error))) from None
