"""What ranks on two machines do, for which two network namespaces of Linux stand.

Each namespace has its own name, address and interfaces, and a cable between them is all that they
share, but for the disk and the processors. On both, `torchrun` starts `examples/over_devices.py`
in the words of its docstring.

    equal   strips that ranks on both make, compared with that of one process
    faults  all processes of one machine are killed, or the cable is cut: the time until the other
            machine ends with an error, and the strip that three ranks on it then finish
    link    a call of `Slab` and of `shared` with a rank on each, by the speed of the cable

It needs root, and the commands `ip`, `tc`, `unshare`, `sh` and `hostname`. If it is stopped by
SIGTERM, namespaces `machine...` remain: remove them with `ip netns del`.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.divided import SPREAD
from benchmarks.reports import columns, rounded, settings, table
from pgmdiff.samplers import Run
from pgmdiff.text import Table

__all__ = ["PARTS", "possible", "run", "tables"]

ROOT = Path(__file__).parents[1]
NAMES = f"machine0-{os.getpid()}", f"machine1-{os.getpid()}"
ADDRESSES = "10.77.0.1", "10.77.0.2"
TORCHRUN = (
    "torchrun --nnodes {} --nproc-per-node {} --rdzv-backend c10d --rdzv-endpoint {}:29500 "
    "examples/over_devices.py --folder {} --width {} --steps {} --timeout {}"
)
CALL = "from benchmarks.divided import one_of_two as f; import json; print(json.dumps(f(*{})))"
SHORT, LONG = (264, 20), (1032, 600)
"""Columns and steps of a strip."""
TIMEOUT = 20
SPEEDS = {None: "", "1gbit": "64kb", "100mbit": "16kb", "10mbit": "2kb"}
"""Of the cable, and how much may pass at once after a pause."""
Row = dict[str, Any]
Process = subprocess.Popen[str]


def possible() -> bool:
    """Whether namespaces can be made here."""
    try:
        with machines() as world, world.limited("10mbit"):
            ended([world.start(0, ["python", "-c", ""])])
            return True
    except (OSError, RuntimeError):
        return False


def shell(*words: str) -> str:
    """What a command prints; an error has what it says of its failure."""
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"{' '.join(words)}: {done.stderr}")
    return done.stdout


class Machines:
    """Two namespaces, the cable between them, and what was started on them."""

    def __init__(self) -> None:
        self.processes: list[Process] = []

    def start(self, machine: int, words: Sequence[str]) -> Process:
        """Starts a program of this environment on a machine."""
        name, own = NAMES[machine], str(Path(sys.executable).with_name(words[0]))
        named = ["sh", "-c", 'hostname "$0" && exec "$@"', name, own, *words[1:]]
        process = subprocess.Popen(
            ["ip", "netns", "exec", name, "unshare", "--uts", *named],
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.processes.append(process)
        return process

    def kill(self, machine: int) -> None:
        """Kills all processes of a machine."""
        for pid in shell("ip", "netns", "pids", NAMES[machine]).split():
            with suppress(ProcessLookupError):  # it may have ended
                os.kill(int(pid), signal.SIGKILL)

    def wait(self) -> None:
        """Waits until all processes have ended."""
        for process in self.processes:
            with process:  # which closes its pipe, too
                pass

    def cable(self, state: str) -> None:
        """Plugs the cable in, "up", or pulls it out, "down"."""
        shell("ip", "-n", NAMES[1], "link", "set", "cable", state)

    @contextmanager
    def limited(self, speed: str | None) -> Iterator[None]:
        """Within it the cable has a speed, the same in both directions."""
        shape = f"tbf rate {speed} burst {SPEEDS[speed]} latency 400ms".split()
        ends = [["ip", "netns", "exec", name, "tc", "qdisc"] for name in NAMES] if speed else []
        for end in ends:
            shell(*end, "add", "dev", "cable", "root", *shape)
        yield
        for end in ends:
            shell(*end, "del", "dev", "cable", "root")


@contextmanager
def machines() -> Iterator[Machines]:
    """Makes the machines, and removes them at the end, with all that they run."""
    found = Machines()
    with ExitStack() as stack:
        stack.callback(found.wait)
        for k, name in enumerate(NAMES):
            shell("ip", "netns", "add", name)
            stack.callback(shell, "ip", "netns", "del", name)
            stack.callback(found.kill, k)
            folder = Path("/etc/netns") / name  # what is in it stands for files of /etc
            folder.mkdir(parents=True, exist_ok=True)
            stack.callback(shutil.rmtree, folder)
            known = zip(("127.0.0.1", *ADDRESSES), ("localhost", *NAMES), strict=True)
            (folder / "hosts").write_text("".join(f"{a} {host}\n" for a, host in known))
        ends = (["name", "cable", "netns", name] for name in NAMES)
        shell("ip", "link", "add", *next(ends), "type", "veth", "peer", *next(ends))
        for name, address in zip(NAMES, ADDRESSES, strict=True):
            shell("ip", "-n", name, "addr", "add", f"{address}/24", "dev", "cable")
            for device in ("lo", "cable"):
                shell("ip", "-n", name, "link", "set", device, "up")
        yield found


def started(
    world: Machines, folder: Path, many: int, ranks: int, size: tuple[int, int] = SHORT
) -> list[Process]:
    """The example on some machines, with a number of ranks on each."""
    words = TORCHRUN.format(many, ranks, NAMES[0], folder, *size, TIMEOUT).split()
    return [world.start(k, words) for k in range(many)]


def ended(processes: Sequence[Process]) -> list[str]:
    """What programs said, once all of them have ended well."""
    said = [process.communicate(timeout=900)[0] for process in processes]
    if any(process.returncode for process in processes):
        raise RuntimeError("\n".join(said))
    return said


def saved(folder: Path) -> tuple[Tensor, int]:
    """The strip that a run saved last, and the number of its steps; 0 before the first."""
    tensors, facts = Run(folder).latest() or ({"x": torch.empty(0)}, {"step": 0})
    return tensors["x"], int(facts["step"])


def apart(folder: Path, other: Path) -> float:
    """The largest difference of the strips in two folders, relative to the largest value."""
    (found, _), (expected, _) = saved(folder), saved(other)
    return float((found - expected).abs().max() / expected.abs().max())


def equal(world: Machines, folder: Path, smoke: bool) -> list[Row]:
    """Strips of ranks on one machine, and on both."""
    cases = [(1, 1), (2, 1)] if smoke else [(1, 1), (1, 2), (2, 1), (2, 2)]
    for many, ranks in cases:
        ended(started(world, folder / f"{many}x{ranks}", many, ranks))
    one = folder / "1x1"
    return [
        {"machines": many, "ranks": many * ranks, "apart": apart(folder / f"{many}x{ranks}", one)}
        for many, ranks in cases[1:]
    ]


def faults(world: Machines, folder: Path, smoke: bool) -> list[Row]:
    """Runs that lose a machine after their first saved step, and then go on with the other."""
    events: dict[str, Callable[[], None]] = {
        "killed": partial(world.kill, 1),
        "cut off": partial(world.cable, "down"),
    }
    ended(started(world, folder / "whole", 1, 1, LONG))
    rows = []
    for name, event in [*events.items()][: 1 if smoke else None]:
        own = folder / name.replace(" ", "_")
        first, second = started(world, own, 2, 1, LONG)
        while not (step := saved(own)[1]):
            if first.poll() is not None:
                ended([first, second])
            time.sleep(0.1)
        event()
        at = time.monotonic()
        said = first.communicate(timeout=900)[0]
        row: Row = {"event": name, "timeout": TIMEOUT, "seconds": time.monotonic() - at}
        lines = [line for line in said.splitlines() if "PgmdiffError: rank 0" in line]
        row["said"] = lines[0].partition("PgmdiffError: ")[2].partition(";")[0]
        row |= {"at_step": step, "of_steps": LONG[1]}
        world.kill(1)
        second.communicate()
        world.cable("up")
        ended(started(world, own, 1, 3, LONG))
        rows.append(row | {"ranks_then": 3, "apart": apart(own, folder / "whole")})
    return rows


def link(world: Machines, folder: Path, smoke: bool) -> list[Row]:
    """Calls with a rank on each machine."""
    cases = [(speed, kind, n) for speed in SPEEDS for kind in SPREAD for n in (64, 512)]
    rows = []
    for speed, kind, n in cases[: 1 if smoke else None]:
        meeting, seconds = f"file://{folder}/{speed}_{kind}_{n}", 0.0 if smoke else 10.0
        words = (["python", "-c", CALL.format((k, meeting, kind, n, seconds))] for k in range(2))
        with world.limited(speed):
            said = ended([world.start(k, each) for k, each in enumerate(words)])
        rows.append({"speed": speed, **json.loads(said[0].splitlines()[-1])})
    return rows


PARTS: dict[str, Callable[[Machines, Path, bool], list[Row]]] = {
    "equal": equal, "faults": faults, "link": link,
}  # fmt: skip


def run(
    *, smoke: bool = False, device: str = "cpu", parts: Sequence[str] = tuple(PARTS)
) -> dict[str, Any]:
    """Measures parts, on the CPU."""
    about = settings(columns=SHORT[0], steps=SHORT[1], long_columns=LONG[0])
    with tempfile.TemporaryDirectory() as folder, machines() as world:
        rows = {name: PARTS[name](world, Path(folder), smoke) for name in parts}
    return {"settings": about, **rounded(rows, 4)}


def tables(result: Mapping[str, Any]) -> list[Table]:
    """A table for every part."""
    shown = {
        "equal": ("Strips of ranks on two machines", "machines ranks apart:.1e"),
        "faults": ("A machine is lost", "event seconds:.1f timeout said at_step apart:.1e"),
        "link": ("Calls by the speed of the cable", "speed kind windows bytes_sent:, two_seconds"),
    }
    return [
        table(title, result[part], columns(keys))
        for part, (title, keys) in shown.items()
        if part in result
    ]
