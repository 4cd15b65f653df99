"""Namespaces, wires and processes for tests that run the data plane for real. Needs root; touches nothing outside the
namespaces it makes, whose names carry this process's id, and removes everything at the end."""

import contextlib
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]


class Failure(Exception):
    """A check that did not hold; the text says which."""


def build_directory():
    return pathlib.Path(os.environ.get("PENSTOCK_BUILD", ROOT / "build"))


def run(*command, check=True):
    result = subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    if check and result.returncode != 0:
        raise Failure(f"{' '.join(command)}: exit {result.returncode}: {result.stdout.strip()}")
    return result


def wait_until(condition, seconds, what):
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise Failure(f"{what}: not within {seconds:g} s")
        time.sleep(0.01)


class Network:
    """`with Network("peer", "gw", "lan") as net:`; everything made inside ends with the block."""

    def __init__(self, *hosts):
        self.prefix = f"pst{os.getpid()}"
        self.hosts = hosts
        self.processes = []
        self.directory = pathlib.Path(tempfile.mkdtemp(prefix="penstock-interop-"))

    def __enter__(self):
        try:
            for host in self.hosts:
                run("ip", "netns", "add", self.name(host))
                self.ip(host, "link", "set", "lo", "up")
        except Failure:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for process in reversed(self.processes):
            if process.poll() is None:
                process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(5)
            if process.poll() is None:
                process.kill()
                process.wait()
        for host in self.hosts:
            run("ip", "netns", "del", self.name(host), check=False)
        shutil.rmtree(self.directory, ignore_errors=True)

    def name(self, host):
        return f"{self.prefix}-{host}"

    def ip(self, host, *arguments):
        return run("ip", "-n", self.name(host), *arguments)

    def inside(self, host, *command, check=True):
        return run("ip", "netns", "exec", self.name(host), *command, check=check)

    def wire(self, host_a, interface_a, host_b, interface_b, mtu=1500):
        run("ip", "link", "add", interface_a, "netns", self.name(host_a), "mtu", str(mtu), "type", "veth",
            "peer", "name", interface_b, "netns", self.name(host_b), "mtu", str(mtu))
        for host, interface in ((host_a, interface_a), (host_b, interface_b)):
            # Frames as they would be on a wire: whole checksums, no giant segments.
            self.inside(host, "ethtool", "-K", interface, "tx", "off", "tso", "off", "gso", "off", "gro", "off")

    def up(self, host, interface, *addresses):
        for address in addresses:
            self.ip(host, "address", "add", address, "dev", interface, *(["nodad"] if ":" in address else []))
        self.ip(host, "link", "set", interface, "up")

    def up_without_kernel(self, host, interface):
        """For a port of the data plane: the kernel has no address there, not even a link-local one."""
        self.inside(host, "sysctl", "-qw", f"net.ipv6.conf.{interface}.disable_ipv6=1")
        self.ip(host, "link", "set", interface, "up")

    def start(self, host, name, *command, environment=None, mount_bpf=False):
        log = open(self.directory / f"{name}.log", "wb")
        command = [str(part) for part in command]
        if mount_bpf:  # AF_XDP wants a bpffs in the process's own mount namespace
            command = ["sh", "-c", 'mount -t bpf bpf /sys/fs/bpf && exec "$@"', "sh", *command]
        process = subprocess.Popen(["ip", "netns", "exec", self.name(host), *command], stdin=subprocess.DEVNULL,
                                   stdout=log, stderr=subprocess.STDOUT, env={**os.environ, **(environment or {})})
        log.close()
        self.processes.append(process)
        return process

    def log(self, name):
        return (self.directory / f"{name}.log").read_text(errors="replace")

    def ping(self, host, address, *options, count=3, interval=0.05, timeout=2):
        """Round trip times in milliseconds; an error when one is lost."""
        result = self.inside(host, "ping", "-n", "-c", str(count), "-i", str(interval), "-W", str(timeout), *options,
                             address, check=False)
        times = [float(value) for value in re.findall(r"time=([\d.]+) ms", result.stdout)]
        if len(times) != count:
            raise Failure(f"ping {address}: {len(times)} of {count} answers\n{result.stdout.strip()}")
        return times


class DataPlane:
    """penstock-dataplane in a namespace, ready to serve."""

    def __init__(self, net, host, configuration, name="dataplane", mount_bpf=False, seconds=10):
        self.net = net
        self.name = name
        file = net.directory / f"{name}.yaml"
        file.write_text(configuration)
        before = time.monotonic()
        self.process = net.start(host, name, build_directory() / "dataplane" / "penstock-dataplane", "--config", file,
                                 mount_bpf=mount_bpf)
        try:
            wait_until(self._ready, seconds, "data plane ready")
        except Failure as failure:
            raise Failure(f"{failure}\n{net.log(name)}") from None
        self.start_seconds = time.monotonic() - before

    def _ready(self):
        if self.process.poll() is not None:
            raise Failure(f"data plane ended with {self.process.returncode}")
        return " ready: " in self.net.log(self.name)

    def ready_line(self):
        return next(line for line in self.net.log(self.name).splitlines() if " ready: " in line)

    def public_key(self):
        return re.search(r"public key (\S+),", self.ready_line()).group(1)

    def processor_share(self, seconds):
        """Share of one core that the process uses."""
        def used():
            fields = pathlib.Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
            return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        before, start = used(), time.monotonic()
        time.sleep(seconds)
        return (used() - before) / (time.monotonic() - start)

    def stop(self):
        """SIGTERM; an error unless it ends with 0, at once, and with every buffer back in its pool."""
        self.process.send_signal(signal.SIGTERM)
        try:
            code = self.process.wait(5)
        except subprocess.TimeoutExpired:
            raise Failure(f"data plane does not end on SIGTERM\n{self.net.log(self.name)}") from None
        log = self.net.log(self.name)
        if code != 0:
            raise Failure(f"data plane ended with {code}\n{log}")
        start = re.search(r"(\d+) of (\d+) buffers free", self.ready_line()).groups()
        end = re.search(r"ended: (\d+) of (\d+) buffers free", log).groups()
        if int(end[0]) < int(start[0]):
            raise Failure(f"buffers lost: {start[0]} of {start[1]} free at the start, {end[0]} at the end\n{log}")


def main(tests, background=()):
    """Runs `tests` in order, one line each; those in `background` beside them, in a process of their own. A pattern as
    argument picks some by name. Exit code 0 when all hold."""
    pattern = sys.argv[1] if len(sys.argv) > 1 else ""
    tests = [test for test in tests if pattern in test.__name__]
    background = [test for test in background if pattern in test.__name__]
    if os.geteuid() != 0:
        for test in [*tests, *background]:
            print(f"SKIP {test.__name__}: needs root")
        sys.exit(0)
    if not tests:
        tests, background = background, []
    beside = [subprocess.Popen([sys.executable, sys.argv[0], test.__name__], text=True, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT) for test in background]
    good = bool(tests)
    for test in tests:
        before = time.monotonic()
        try:
            note = test()
            print(f"PASS {test.__name__}" + (f": {note}" if note else "") + f" ({time.monotonic() - before:.1f} s)",
                  flush=True)
        except Failure as failure:
            good = False
            print(f"FAIL {test.__name__}: {failure}", flush=True)
    for process in beside:
        output, _ = process.communicate()
        print(output.strip(), flush=True)
        good = good and process.returncode == 0
    sys.exit(0 if good else 1)
