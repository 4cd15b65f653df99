"""Processes of a lab: started inside a namespace, remembered by pid and start time, ended by pid, never by name."""

import json
import os
import pathlib
import signal
import subprocess
import time

from .topology import LabError

TICKS = os.sysconf("SC_CLK_TCK")


def start_time(pid):
    """Clock ticks after boot at which the pid was born: tells a recycled pid from ours. None when it is gone."""
    try:
        fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def wait_until(condition, seconds, what):
    """Polls until `condition()` is true; its last falsy value is reported when time is up."""
    deadline = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise LabError(f"{what}: not within {seconds:g} s")
        time.sleep(0.02)


class Processes:
    def __init__(self, network, directory):
        self.network = network
        self.directory = pathlib.Path(directory)
        self.file = self.directory / "processes.json"

    def load(self):
        return json.loads(self.file.read_text()) if self.file.exists() else {}

    def _store(self, table):
        temporary = self.file.with_suffix(".new")
        temporary.write_text(json.dumps(table, indent=1))
        temporary.replace(self.file)

    def log_file(self, name):
        return self.directory / "log" / f"{name}.log"

    def start(self, name, host, command, mount_bpf=False, environment=None):
        """Starts `command` in the host's namespace; its output goes to log/<name>.log."""
        if self.alive(name):
            raise LabError(f"{name} runs already")
        log = self.log_file(name)
        log.parent.mkdir(parents=True, exist_ok=True)
        inner = list(command)
        if mount_bpf:  # AF_XDP needs a bpffs in the same mount namespace as the process
            inner = ["sh", "-c", 'mount -t bpf bpf /sys/fs/bpf && exec "$@"', "sh", *inner]
        with open(log, "ab") as output:
            child = subprocess.Popen(
                ["ip", "netns", "exec", self.network.namespace(host), *inner],
                stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True,
                env={**os.environ, **(environment or {})})
        born = start_time(child.pid)
        if born is None:
            raise LabError(f"{name} ended at once:\n{self.tail(name)}")
        table = self.load()
        table[name] = {"pid": child.pid, "born": born, "host": host}
        self._store(table)
        return child

    def alive(self, name):
        entry = self.load().get(name)
        return bool(entry) and start_time(entry["pid"]) == entry["born"]

    def pid(self, name):
        if not self.alive(name):
            raise LabError(f"{name} does not run")
        return self.load()[name]["pid"]

    def send(self, name, number):
        os.kill(self.pid(name), number)

    def stop(self, name, seconds=10.0):
        """SIGTERM and wait. True when it ended by itself, False when it had to be killed."""
        if not self.alive(name):
            return True
        self.send(name, signal.SIGTERM)
        self.send_if_alive(name, signal.SIGCONT)
        clean = True
        try:
            wait_until(lambda: self.gone(name), seconds, f"end of {name}")
        except LabError:
            clean = False
            self.send_if_alive(name, signal.SIGKILL)
            wait_until(lambda: self.gone(name), 5, f"end of {name}")
        return clean

    def send_if_alive(self, name, number):
        if self.alive(name):
            os.kill(self.load()[name]["pid"], number)

    def gone(self, name):
        entry = self.load()[name]
        try:  # reap it when it is our child; it is not when another run of the lab started it
            os.waitpid(entry["pid"], os.WNOHANG)
        except ChildProcessError:
            pass
        return start_time(entry["pid"]) != entry["born"]

    def kill(self, name, number=signal.SIGKILL):
        """Sends a signal; after one that cannot be survived, waits for the end."""
        self.send(name, number)
        if number == signal.SIGKILL:
            wait_until(lambda: self.gone(name), 5, f"end of {name}")

    def stop_all(self):
        """In reverse order of starting. Names of those that did not end by themselves."""
        return [name for name in reversed(list(self.load())) if not self.stop(name)]

    def tail(self, name, lines=20):
        log = self.log_file(name)
        if not log.exists():
            return ""
        return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
