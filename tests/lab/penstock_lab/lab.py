"""One lab instance: network, NATs, servers and Penstock's processes, with what `scripts/lab` offers as verbs."""

import json
import os
import pathlib
import shutil

from . import nat
from .penstock import PROCESSES, Penstock, resolv_conf
from .process import Processes
from .services import Services
from .topology import HOSTS, LabError, Network

RUN = pathlib.Path("/run/penstock-lab")
REPOSITORY = pathlib.Path(__file__).resolve().parents[3]
DRIVERS = ("af_packet", "af_xdp", "tap")


class Lab:
    def __init__(self, name="lab"):
        if not name.isalnum() or len(name) > 16:
            raise LabError("an instance's name is up to 16 letters and digits")
        self.name = name
        self.directory = RUN / name
        self.network = Network(f"penstock-{name}")
        self.processes = Processes(self.network, self.directory)
        self.services = Services(self.network, self.processes, self.directory)
        self._settings_file = self.directory / "settings.json"
        self.settings = json.loads(self._settings_file.read_text()) if self._settings_file.exists() else {}

    # ---- up and down ----

    def up(self, client_nat="preserving", gateway_nat="preserving", unexpected="drop", driver="af_packet", build=None,
           processes=PROCESSES):
        if os.geteuid() != 0:
            raise LabError("needs root (network namespaces)")
        if self.network.exists():
            raise LabError(f"instance {self.name} is up already")
        self.directory.mkdir(parents=True, exist_ok=True)
        os.chmod(self.directory, 0o700)
        self.settings = {"client_nat": client_nat, "gateway_nat": gateway_nat, "unexpected": unexpected,
                         "driver": driver, "build": str(build or REPOSITORY / "build"), "resets": 0}
        self._save()
        try:
            self.network.up(driver)
            for host in ("client", "gw"):
                path = resolv_conf(self.network, host)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text("")
            for host in ("cnat", "gnat"):
                nat.apply(self.network, host, self._nat_kind(host), unexpected)
            self.services.start()
            self.penstock.configure()
            for process in processes:
                self.penstock.start(process)
                self.penstock.wait_ready(process)
        except BaseException:
            self.save_logs()
            self.down()
            raise

    def down(self):
        """Ends everything; says which processes did not end by themselves."""
        stubborn = self.processes.stop_all()
        self.network.down()
        for host in HOSTS:
            shutil.rmtree(pathlib.Path("/etc/netns") / self.network.namespace(host), ignore_errors=True)
        shutil.rmtree(self.directory, ignore_errors=True)
        return stubborn

    def save_logs(self):
        """Logs of a lab that is about to vanish, for whoever wants to know why."""
        source = self.directory / "log"
        if source.exists():
            target = RUN / f"{self.name}-last-logs"
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(source, target)

    @property
    def penstock(self):
        self._require_up()
        return Penstock(self.network, self.processes, self.directory, self.settings["build"], self.settings["driver"])

    def _require_up(self):
        if not self.settings:
            raise LabError(f"instance {self.name} is not up")

    def _save(self):
        self._settings_file.write_text(json.dumps(self.settings))

    def _nat_kind(self, host):
        return self.settings["client_nat" if host == "cnat" else "gateway_nat"]

    # ---- verbs ----

    def nat_reset(self, which):
        self._require_up()
        hosts = {"gateway": ["gnat"], "client": ["cnat"], "both": ["cnat", "gnat"]}[which]
        self.settings["resets"] += 1
        self._save()
        for host in hosts:
            nat.reset(self.network, host, self._nat_kind(host), self.settings["unexpected"], self.settings["resets"])

    def restart(self, process):
        if process in PROCESSES:
            self.processes.stop(process)
            self.penstock.start(process)
            self.penstock.wait_ready(process)
        elif process == "relay":
            self.processes.stop(process)
            self.services.start_relay()
        else:
            raise LabError(f"restart knows: {' '.join(PROCESSES)} relay")

    def start(self, process):
        self.penstock.start(process)
        self.penstock.wait_ready(process)

    def status(self):
        self._require_up()
        rows = [("instance", self.name), *((key, str(value)) for key, value in self.settings.items())]
        for name, entry in self.processes.load().items():
            state = "running" if self.processes.alive(name) else "ended"
            if state == "running" and name in PROCESSES:
                state = self.penstock.state(name) or "running, does not answer"
            rows.append((name, f"{state} (pid {entry['pid']}, {entry['host']})"))
        return rows
