"""How a build looks: a live line on a terminal, a line per event elsewhere."""

import time
from types import TracebackType

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from toolchain import gobuild
from toolchain.tools import Tool

HEARTBEAT_S = 30.0


def seconds(value: float) -> str:
    """`3 min 05 s`, or `12 s`."""
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


class Display:
    """Context manager that shows the builds of a list of tools on stderr.

    Args:
        tools: What will be built, in order; decides the counter and the time that is left.
        quiet: Show nothing.
    """

    def __init__(self, tools: list[Tool], quiet: bool = False) -> None:
        self._tools = tools
        self._console = Console(stderr=True, quiet=quiet, highlight=False)
        self._live = self._console.is_terminal and not quiet
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=20),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}", style="dim"),
            console=self._console,
            transient=True,
        )
        self._task: TaskID | None = None
        self._current: str | None = None
        self._started = self._said = 0.0
        self._expected: dict[str, float] = {}

    def __enter__(self) -> "Display":
        self._expected = {tool.name: gobuild.expected(tool) for tool in self._tools}
        if self._live:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def _begin(self, tool: Tool, state: str, text: str) -> None:
        """Start a live task, or say a line, when `tool` enters `state`."""
        if self._current == f"{tool.name} {state}":
            return
        self._current = f"{tool.name} {state}"
        self._started = self._said = time.monotonic()
        if self._live:
            if self._task is not None:
                self._progress.remove_task(self._task)
            self._task = self._progress.add_task(text, total=self._expected[tool.name], note="")
        else:
            self._console.print(text, soft_wrap=True)

    def _count(self, tool: Tool) -> str:
        return f"[{self._tools.index(tool) + 1} of {len(self._tools)}]".replace("[", r"\[")

    def waiting(self, tool: Tool, holder: str) -> None:
        """Another process builds."""
        self._begin(tool, "waiting", f"{self._count(tool)} {tool.name}: waiting for {escape(holder)}")

    def building(self, tool: Tool, detail: str) -> None:
        """Go works on `detail`."""
        expected = self._expected[tool.name]
        usual = f"{'last time' if tool.name in gobuild.timings() else 'first time, usually about'} {seconds(expected)}"
        self._begin(tool, "building", f"{self._count(tool)} building {tool.name} {tool.version} ({usual})")
        now = time.monotonic()
        if self._task is not None:
            done = min(now - self._started, 0.98 * expected)  # an estimate never claims to be finished
            self._progress.update(self._task, completed=done, note=escape(detail[-60:]))
        elif now - self._said >= HEARTBEAT_S:
            self._said = now
            self._console.print(
                f"  {tool.name}: {seconds(now - self._started)} so far, {escape(detail)}", soft_wrap=True
            )

    def done(self, tool: Tool, took: float | None, source: str = "built") -> None:
        """`tool` is ready; `took` seconds, or None when nothing had to be done."""
        if self._task is not None:
            self._progress.remove_task(self._task)
            self._task = None
        if took is not None:
            self._console.print(f"{self._count(tool)} {source} {tool.name} {tool.version} in {seconds(took)}")
        elif source != "built":
            self._console.print(f"{self._count(tool)} using the {source} {tool.name} {tool.version}")
