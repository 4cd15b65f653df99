"""Traffic under observation: numbered UDP packets both ways, a paced download and a ping, and what became of each.

Every packet is looked at from its sender's record to its receiver's. All clocks are the machine's wall clock.
"""

import array
import bisect
import dataclasses
import json
import pathlib
import re
import signal
import subprocess
import time

from . import topology as net
from .process import wait_until
from .topology import LabError

PORT = 7000
RECORD = 24  # tests/lab/meter/record.h: sequence, error, sent, at
NANO = 1_000_000_000


@dataclasses.dataclass
class Flow:
    """One direction: when each number was sent, and when it first arrived."""
    name: str
    sent: dict       # number -> time
    arrived: dict    # number -> time of first arrival
    duplicates: int  # arrivals beyond the first
    refused: int     # the sender's kernel would not take them

    def window(self, begin, end):
        """What became of the packets sent in [begin, end): (sent, lost numbers, longest silence, longest delay)."""
        numbers = sorted(n for n, at in self.sent.items() if begin <= at < end)
        lost = [n for n in numbers if n not in self.arrived]
        delays = [self.arrived[n] - self.sent[n] for n in numbers if n in self.arrived]
        return Window(len(numbers), lost, self._silence(numbers), max(delays, default=0.0))

    def _silence(self, numbers):
        """The longest time in which a packet was expected and none came: from an arrival, or from the sending of the
        next packet where that is later (nothing comes of what was not sent), to the next arrival, or to the last
        sending when nothing came any more."""
        longest, expected, since = 0.0, 0, 0.0  # index of the lowest number beyond all that came
        for at, number in sorted((self.arrived[n], n) for n in numbers if n in self.arrived):
            if expected < len(numbers):
                longest = max(longest, at - max(since, self.sent[numbers[expected]]))
            expected = max(expected, bisect.bisect_right(numbers, number))
            since = at
        if expected < len(numbers):
            longest = max(longest, self.sent[numbers[-1]] - max(since, self.sent[numbers[expected]]))
        return longest

    def machine_gap(self, begin, end):
        """The longest time between two packets at the sender: what the machine itself, not the tunnel, held up."""
        times = sorted(at for at in self.sent.values() if begin <= at < end)
        return max((b - a for a, b in zip(times, times[1:])), default=0.0)


@dataclasses.dataclass
class Window:
    sent: int
    lost: list
    silence: float
    delay: float

    @property
    def stall(self):
        """Longest time an application waited: for anything at all, or for one packet."""
        return max(self.silence, self.delay)


def records(path):
    """Columns of a record file; a half-written record at its end is left out."""
    data = pathlib.Path(path).read_bytes() if pathlib.Path(path).exists() else b""
    whole = data[:len(data) - len(data) % RECORD]
    words, times = array.array("I"), array.array("q")
    words.frombytes(whole)
    times.frombytes(whole)
    return words[0::6], words[1::6], times[1::3], times[2::3]


def flow(directory, name):
    numbers, errors, sent_at, _ = records(directory / f"{name}.sent")
    sent = {n: at / NANO for n, at in zip(numbers, sent_at)}
    arrived, duplicates = {}, 0
    numbers, _, _, times = records(directory / f"{name}.received")
    for number, at in zip(numbers, times):
        if number in arrived:
            duplicates += 1
        else:
            arrived[number] = at / NANO
    return Flow(name, sent, arrived, duplicates, sum(1 for error in errors if error))


@dataclasses.dataclass
class Traffic:
    """What was measured, once the traffic has ended."""
    up: Flow
    down: Flow
    ping: Flow
    download: list   # (time, bytes)
    summary: dict

    @property
    def flows(self):
        return (self.up, self.down, self.ping)

    def download_stall(self, begin, end):
        """Longest silence of the download in [begin, end); up to `end` when nothing came any more."""
        times = [begin, *(at for at, _ in self.download if begin <= at < end), end]
        return max((b - a for a, b in zip(times, times[1:])), default=end - begin)

    @property
    def download_broken(self):
        return self.summary["download_error"] != 0 or self.summary["download_closed"]


class Meter:
    """Runs the traffic in a lab. Use as a context, or start() and finish()."""

    def __init__(self, lab, target, name="meter", rate=1000, download=25_000, size=64, ping=True, server="lan",
                 addresses=(net.WEB_BOTH4, net.WEB_BOTH6)):
        self.lab = lab
        self.target = target
        self.name = name
        self.rate, self.download, self.size = rate, download, size
        self.with_ping = ping
        self.server_host, self.addresses = server, addresses
        self.directory = lab.directory / name
        self.client = self.ping = self.server = None

    def binary(self):
        path = pathlib.Path(self.lab.settings["build"]) / "tests" / "lab" / "lab_meter"
        if not path.exists():
            raise LabError(f"{path} is not built")
        return str(path)

    def _run(self, host, *command):
        return subprocess.Popen(["ip", "netns", "exec", self.lab.network.namespace(host), *command], text=True,
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    def start(self, linger=3):
        self.directory.mkdir(parents=True, exist_ok=True)
        for old in self.directory.iterdir():
            old.unlink()
        common = ["--port", str(PORT), "--directory", str(self.directory), "--size", str(self.size),
                  "--download", str(self.download)]
        self.server = self._run(self.server_host, self.binary(), "server", *common, "--bind", *self.addresses)
        wait_until(lambda: f":{PORT} " in self.lab.network.inside(self.server_host, "ss", "-Hlnu", capture=True), 5,
                   "the meter's server")
        self.client = self._run("client", self.binary(), "client", "--to", self.target, "--rate", str(self.rate),
                                "--linger", str(linger), *common)
        if self.with_ping:
            self.ping = self._run("client", "ping", "-n", "-D", "-i", "0.1", self.target)
        return self

    def wait_flowing(self, seconds=15):
        """Until the first packet has come back."""
        def flowing():
            if self.client.poll() is not None:
                raise LabError(f"the meter ended: {self.client.stderr.read().strip()}")
            return (self.directory / "down.received").exists() and (
                (self.directory / "down.received").stat().st_size > 0)
        wait_until(flowing, seconds, "traffic through the tunnel")

    def pause(self, end):
        (self.client if end == "client" else self.server).send_signal(signal.SIGUSR1)

    resume = pause  # the same signal toggles

    def finish(self):
        """Ends the traffic and returns what became of it."""
        if self.ping is not None:
            self.ping_ended = time.time()
            self.ping.send_signal(signal.SIGINT)
        self.client.send_signal(signal.SIGTERM)
        out, errors = self.client.communicate(timeout=30)
        if self.client.returncode != 0:
            raise LabError(f"the meter failed: {errors.strip()}")
        self.server.send_signal(signal.SIGTERM)
        self.server.communicate(timeout=10)
        ping = self._ping_flow()
        up, down = flow(self.directory, "up"), flow(self.directory, "down")
        summary = json.loads(out)
        # The server goes on sending until it is told to end: only what had time to arrive counts.
        last = summary["last_sent"] / NANO
        down.sent = {n: at for n, at in down.sent.items() if at <= last}
        sizes, _, _, times = records(self.directory / "download")
        return Traffic(up, down, ping, [(at / NANO, size) for at, size in zip(times, sizes)], summary)

    def _ping_flow(self):
        """A ping as a flow: number -> when it was asked, number -> when the answer came. It was asked a round trip
        before its answer; where none came, a tenth of a second after the one before."""
        if self.ping is None:
            return Flow("ping", {}, {}, 0, 0)
        text, _ = self.ping.communicate(timeout=20)
        answers = [(int(n), float(at), float(ms) / 1000) for at, n, ms in re.findall(
            r"^\[(\d+\.\d+)\] \d+ bytes .*icmp_seq=(\d+) .*time=([\d.]+) ms", text, re.M)]
        arrived, sent = {}, {}
        for number, at, took in answers:
            if number not in arrived:
                arrived[number], sent[number] = at, at - took
        transmitted = re.search(r"(\d+) packets transmitted", text)
        if sent and transmitted:
            known = sorted(sent)
            for number in range(1, int(transmitted.group(1)) + 1):
                if number not in sent:
                    before = max((n for n in known if n < number), default=None)
                    anchor = known[0] if before is None else before
                    sent[number] = sent[anchor] + 0.1 * (number - anchor)
        # What was asked just before the end had no time to come back.
        sent = {n: at for n, at in sent.items() if at < self.ping_ended - 1 or n in arrived}
        return Flow("ping", sent, arrived, text.count("(DUP!)"), 0)

    def abort(self):
        for process in (self.ping, self.client, self.server):
            if process is not None and process.poll() is None:
                process.kill()
                process.communicate()
