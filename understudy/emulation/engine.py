"""The `docker` command, as far as an emulation needs it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Mapping, Sequence
from pathlib import Path

from understudy.emulation.errors import EmulationError
from understudy.emulation.project import HUB, HUB_LINKS, LABEL, Layout
from understudy.emulation.traffic import APPLY

COMMAND_S = 60.0
BUILD_S = 1800.0
UP_S = 300.0
GRACE_S = 10.0

_EVENTS: Mapping[str, tuple[str, ...]] = {
    "kill": ("kill",),
    "start": ("start",),
    "restart": ("kill",),
    "pause": ("pause",),
    "resume": ("unpause",),
    "cut": ("disconnect",),
    "join": ("connect",),
    "slow": ("exec_start",),
    "restore": ("exec_start",),
    "kill-broker": ("exec_start", "kill"),
}
"""The engine's word for each action of a scenario."""

_PROBE_NETEM = "tc qdisc add dev lo root netem delay 1ms && tc qdisc del dev lo root"
_KILL_BROKER = "kill -KILL $(cat /run/understudy/broker.pid)"


async def docker(*arguments: str, stdin: str | None = None, timeout_s: float = COMMAND_S) -> str:
    """What the command prints.

    Raises:
        EmulationError: it fails, with its own words; it takes longer; there is no docker.
    """
    try:
        # A session of its own: Ctrl-C is for us, who then tear down in order.
        process = await asyncio.create_subprocess_exec(
            "docker",
            *arguments,
            stdin=DEVNULL if stdin is None else PIPE,
            stdout=PIPE,
            stderr=PIPE,
            start_new_session=True,
        )
    except FileNotFoundError as error:
        raise EmulationError("there is no docker here: install a Docker engine with Compose") from error
    try:
        async with asyncio.timeout(timeout_s):
            out, complaint = await process.communicate(None if stdin is None else stdin.encode())
    except TimeoutError:
        raise EmulationError(f"docker {arguments[0]} has not ended after {timeout_s:g} s") from None
    finally:
        await _end(process)
    if process.returncode:
        raise EmulationError(f"docker {_named(arguments)}: {_last(complaint) or _last(out) or 'failed without a word'}")
    return out.decode(errors="replace")


async def _end(process: Process) -> None:
    """The engine may still do what an interrupted command had asked for: it is let end by itself, if it does soon."""
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        async with asyncio.timeout(GRACE_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


def _named(arguments: Sequence[str]) -> str:
    """The command and what it does, without options and names."""
    words = [word for word in arguments if word.isalpha()]
    return " ".join(words[:2] if words[0] in ("compose", "network") else words[:1])


def _last(output: bytes) -> str:
    lines = [line for line in output.decode(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip() if lines else ""


async def check_engine() -> str:
    """The engine's version.

    Raises:
        EmulationError: there is none, or no Compose plugin.
    """
    try:
        version = await docker("version", "--format", "{{.Server.Version}}", timeout_s=20)
    except EmulationError as error:
        raise EmulationError(f"no Docker engine answers: start it, or ask for the right to use it ({error})") from error
    try:
        await docker("compose", "version", timeout_s=20)
    except EmulationError as error:
        raise EmulationError(f"docker has no Compose plugin: install docker-compose-plugin ({error})") from error
    return version.strip()


async def build(sources: Path, image: str) -> None:
    """Build the image; what has not changed is not built again. docker itself hands $PIP_INDEX_URL on."""
    file = str(sources / "compose" / "Dockerfile")
    arguments = ("--quiet", "--build-arg", "PIP_INDEX_URL", "-f", file, "-t", image)
    await docker("build", *arguments, str(sources), timeout_s=BUILD_S)


async def used_subnets() -> set[str]:
    """The first three numbers of every network that the engine has."""
    ids = (await docker("network", "ls", "-q")).split()
    shown = await docker("network", "inspect", "-f", "{{range .IPAM.Config}}{{.Subnet}} {{end}}", *ids)
    return {subnet.rpartition(".")[0] for subnet in shown.split()}


class Stack:
    """The containers of a project: `async with` removes them, whatever has happened, unless they shall be kept."""

    def __init__(self, layout: Layout, folder: Path, *, keep: bool = False) -> None:
        self._layout, self._folder, self._keep = layout, folder, keep
        self._netem: bool | None = None

    async def __aenter__(self) -> Stack:
        return self

    async def __aexit__(self, *_: object) -> None:
        if not self._keep:
            await self.remove()

    async def start(self) -> None:
        await self._compose("up", "--detach", "--no-build", "--quiet-pull", timeout_s=UP_S)

    async def remove(self) -> None:
        """Containers, network and volumes."""
        with contextlib.suppress(EmulationError):
            await self._compose("kill", timeout_s=COMMAND_S)  # there is nothing that would have to end in order
        await self._compose("down", "--volumes", "--remove-orphans", "--timeout", "0", timeout_s=UP_S)
        if left := (await docker("ps", "-aq", "--filter", f"label={LABEL}={self._layout.name}")).split():
            await docker("rm", "--force", "--volumes", *left)

    async def ended(self) -> dict[str, str]:
        """Containers that do not run, with the end of what they said."""
        rows = await docker(
            "ps", "-a", "--filter", f"label={LABEL}={self._layout.name}", "--format", "{{.Names}} {{.State}}"
        )
        names = [name for name, state in (row.split() for row in rows.splitlines()) if state in ("exited", "dead")]
        return {name.removeprefix(f"{self._layout.name}-"): await self.last_words(name) for name in names}

    async def last_words(self, container: str, lines: int = 3) -> str:
        process = await asyncio.create_subprocess_exec(
            "docker", "logs", "--tail", str(lines), container, stdout=PIPE, stderr=asyncio.subprocess.STDOUT
        )
        out, _ = await process.communicate()
        return out.decode(errors="replace").strip()

    async def moment(self, action: str, name: str, *, since: float) -> float | None:
        """When the engine had done `action` of a scenario, by its own events: seconds since 1970. None: they do not
        say. A docker command takes longer than what it does, and how much longer is nobody's fault but ours."""
        if action in ("cut", "join"):
            filters = ("--filter", "type=network", "--filter", f"network={self._network}")
        else:
            filters = ("--filter", "type=container", "--filter", f"container={self._layout.container(name)}")
        span = ("--since", f"{since:.6f}", "--until", f"{time.time():.6f}")
        rows = await docker("events", *span, *filters, "--format", "{{.TimeNano}} {{.Action}}")
        for row in rows.splitlines():
            at, _, did = row.partition(" ")
            if did.startswith(_EVENTS[action]):
                return float(at) / 1e9
        return None

    # ---- faults ------------------------------------------------------------------------------------------------

    async def do(self, action: str, name: str) -> None:
        """kill, start, restart, pause, unpause a container."""
        grace = ("--time", "10") if action == "restart" else ()
        await docker(action, *grace, self._layout.container(name))

    async def cut(self, name: str) -> None:
        await docker("network", "disconnect", "--force", self._network, self._layout.container(name))

    async def join(self, name: str) -> None:
        address = self._layout.address(name)
        await docker("network", "connect", "--ip", address, self._network, self._layout.container(name))

    async def shape(self, name: str, lines: Sequence[str]) -> None:
        """`lines` of `traffic.commands`."""
        await self._as_root(name, APPLY, stdin="\n".join(lines) + "\n")

    async def kill_broker(self, name: str) -> None:
        """Its supervisor starts it again."""
        await self._as_root(name, _KILL_BROKER)

    async def restart_hub(self, after_s: float) -> None:
        """The mosquitto crashes, and is back a moment later; who shapes its links shares its network, which is new."""
        await self.do("kill", HUB)
        await asyncio.sleep(after_s)
        await self.do("start", HUB)
        await self.do("restart", HUB_LINKS)

    async def has_netem(self, name: str) -> bool:
        """Whether the kernel can delay and lose."""
        if self._netem is None:
            try:
                await self._as_root(name, _PROBE_NETEM)
                self._netem = True
            except EmulationError:
                self._netem = False
        return self._netem

    async def _as_root(self, name: str, command: str, *, stdin: str | None = None) -> None:
        interactive = () if stdin is None else ("-i",)
        container = self._layout.container(name)
        await docker("exec", "-u", "0", *interactive, container, "sh", "-c", command, stdin=stdin)

    @property
    def _network(self) -> str:
        return f"{self._layout.name}_links"

    async def _compose(self, *arguments: str, timeout_s: float) -> None:
        file = str(self._folder / "compose.yaml")
        await docker("compose", "-p", self._layout.name, "-f", file, *arguments, timeout_s=timeout_s)
