"""One lab instance: network, NATs, servers and Penstock's processes, with what `scripts/lab` offers as verbs."""

import json
import os
import pathlib
import shutil
import time

from . import access, kinds, nat, topology
from .penstock import ALL_PROCESSES, Penstock, resolv_conf
from .process import Processes
from .services import Services
from .topology import ALL_HOSTS, LabError, Network, hosts_of
from .wire import WireNat, is_wire

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

    @classmethod
    def anew(cls, name):
        """Of this name, and nothing left of an earlier run that was cut off."""
        lab = cls(name)
        if lab.network.exists() or lab.directory.exists():
            lab.down()
        return cls(name)

    # ---- up and down ----

    def up(self, client_nat="preserving", gateway_nat="preserving", unexpected="drop", driver="af_packet", build=None,
           processes=None, parts=(), options=None, without=()):
        """`processes`: which of Penstock's to start, default all `without` some. `parts`: of topology.PARTS. `options`: see
        Penstock."""
        if os.geteuid() != 0:
            raise LabError("needs root (network namespaces)")
        if self.network.exists():
            raise LabError(f"instance {self.name} is up already")
        for kind in (client_nat, gateway_nat):
            kinds.parse(kind)
        self.directory.mkdir(parents=True, exist_ok=True)
        os.chmod(self.directory, 0o700)
        self.settings = {"client_nat": client_nat, "gateway_nat": gateway_nat, "unexpected": unexpected,
                         "driver": driver, "build": str(build or REPOSITORY / "build"), "parts": list(parts),
                         "options": options or {}, "resets": 0}
        self._save()
        try:
            self.network.up(driver, parts)
            access.client_site(self.network, parts)
            for host in (h for h in hosts_of(parts) if h.startswith(("client", "gw"))):
                path = resolv_conf(self.network, host)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text("")
            for number, host in enumerate(self._nats("both")):
                nat.apply(self.network, host, self._nat_kind(host), unexpected)
                if is_wire(self._nat_kind(host)):
                    WireNat(self, host).start(self._nat_kind(host), unexpected == "reject", number + 1)
            if "dslite" in parts:
                access.start_softwire(self)
            self.services.start(parts)
            if "ipv6only" in parts:
                access.start_nat64(self)
            if "tcp443" in parts or "proxy" in parts:
                access.narrow(self, with_proxy="proxy" in parts)
            self.penstock.configure()
            for process in [p for p in self.penstock.started if p not in without] if processes is None else processes:
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
        for host in ALL_HOSTS:
            shutil.rmtree(pathlib.Path("/etc/netns") / self.network.namespace(host), ignore_errors=True)
        shutil.rmtree(self.directory, ignore_errors=True)
        return stubborn

    def save_logs(self, what="last"):
        """Logs of a lab that is about to vanish, for whoever wants to know why."""
        source = self.directory / "log"
        if source.exists():
            target = RUN / f"{self.name}-{what}-logs"
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree(source, target)

    def note_state(self, why):
        """What interfaces, sockets and processes look like just now, into the logs."""
        with open(self.directory / "log" / "state.log", "a") as log:
            print(f"==== {time.time():.3f} {why}", file=log)
            for host in ("client", "gnat", "gw", "lan"):
                for command in (("ip", "-s", "link"), ("ip", "neighbour"), ("ss", "-aen", "--xdp")):
                    print(f"-- {host}: {' '.join(command)}", file=log)
                    print(self.network.inside(host, *command, capture=True), file=log)
            for process in self.penstock.started:
                for what in (("status",), *(("show", table) for table in ("peers", "drops", "ports", "neighbours"))):
                    text = self.penstock.ctl(process, *what, as_json=False, check=False)
                    print(f"-- {process}: {' '.join(what)}\n{text}", file=log)

    @property
    def penstock(self):
        self._require_up()
        return Penstock(self.network, self.processes, self.directory, self.settings["build"], self.settings["driver"],
                        self.settings["parts"], self.settings["options"])

    def _require_up(self):
        if not self.settings:
            raise LabError(f"instance {self.name} is not up")

    def _save(self):
        self._settings_file.write_text(json.dumps(self.settings))

    def _nat_kind(self, host):
        return self.settings["gateway_nat" if host == "gnat" else "client_nat"]

    def _nats(self, which):
        return access.nats(self.settings["parts"], which)

    # ---- verbs ----

    def nat_reset(self, which):
        self._require_up()
        self.settings["resets"] += 1
        self._save()
        for host in self._nats(which):
            if is_wire(self._nat_kind(host)):
                WireNat(self, host).forget()
                continue
            nat.reset(self.network, host, self._nat_kind(host), self.settings["unexpected"], self.settings["resets"])

    def forget_tunnel_mapping(self, host):
        """The NAT forgets the mappings that carry the tunnel itself, not those towards STUN servers."""
        if is_wire(self._nat_kind(host)):
            raise LabError("a wire forgets single mappings by itself: give it life=...")
        self.settings["resets"] += 1
        self._save()
        relays = (topology.RELAY, topology.RELAY_ALT, topology.RELAY2)
        if host == "gnat":
            def wanted(entry):
                return entry["sport"] == "51820" and entry["dport"] != "3478"
        else:
            def wanted(entry):
                return entry["dst"] == topology.GNAT_WAN or (entry["dst"] in relays and entry["dport"] == "3478")
        if nat.forget_some(self.network, host, self._nat_kind(host), self.settings["unexpected"],
                           self.settings["resets"], wanted) == 0:
            raise LabError(f"{host} has no mapping of the tunnel")

    def restart(self, process):
        if process not in (*self.penstock.started, "relay", "relay2"):
            raise LabError(f"restart knows: {' '.join(self.penstock.started)} relay relay2")
        self.processes.stop(process)
        self.start(process)

    def start(self, process):
        if process in ("relay", "relay2"):
            self.services.start_relay(process)
            return
        self.penstock.start(process)
        self.penstock.wait_ready(process)

    def status(self):
        self._require_up()
        rows = [("instance", self.name), *((key, str(value)) for key, value in self.settings.items())]
        for name, entry in self.processes.load().items():
            state = "running" if self.processes.alive(name) else "ended"
            if state == "running" and name in ALL_PROCESSES:
                state = self.penstock.state(name) or "running, does not answer"
            rows.append((name, f"{state} (pid {entry['pid']}, {entry['host']})"))
        return rows
