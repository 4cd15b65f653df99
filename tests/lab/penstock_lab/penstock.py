"""Penstock's own processes in the lab: their configuration, their start and how to ask them how they are."""

import hashlib
import json
import pathlib
import secrets
import subprocess

from . import access
from . import topology as net
from .process import wait_until
from .services import write
from .topology import LabError

PROCESSES = ("portal", "dataplane", "gateway", "client")
SECOND_GATEWAY = ("dataplane2", "gateway2")
ALL_PROCESSES = PROCESSES + SECOND_GATEWAY + ("client2",)
HOST_OF = {"portal": "inet", "dataplane": "gw", "gateway": "gw", "client": "client", "dataplane2": "gw2",
           "gateway2": "gw2", "client2": "client2"}
USERS = {"client": "alice-laptop", "client2": "bob-phone"}  # process -> the client's id at the portal


def yaml(value, indent=0):
    """JSON is YAML; written so, nothing needs a library."""
    return json.dumps(value, indent=2) + "\n"


class Penstock:
    def __init__(self, network, processes, directory, build, driver, parts=(), options=None):
        """`options`: what a test wants different, a dictionary: `client_arguments` (list),
        `goodbye_on_exit` (bool), `mtu` (inside the tunnel), `site` (of the portal's site: source_nat, mapping,
        filtering)."""
        self.parts = parts
        self.options = options or {}
        self.network = network
        self.processes = processes
        self.directory = pathlib.Path(directory)
        self.build = pathlib.Path(build).resolve()
        self.driver = driver

    def binary(self, process):
        kind = process.rstrip("2")
        folder = "dataplane" if kind == "dataplane" else f"controlplane/{kind}"
        path = self.build / folder / f"penstock-{kind}"
        if not path.exists():
            raise LabError(f"{path} is not built")
        return path

    def ctl_binary(self):
        return self.build / "controlplane" / "ctl" / "penstockctl"

    def socket(self, process):
        return self.directory / "run" / f"{process}.sock"

    # ---- configuration ----

    def token(self, name):
        path = self.directory / "tokens" / name
        if not path.exists():
            write(path, secrets.token_urlsafe(24) + "\n", 0o600)
        return path

    def token_hash(self, name):
        return hashlib.sha256(self.token(name).read_text().strip().encode()).hexdigest()

    def configure(self):
        (self.directory / "run").mkdir(parents=True, exist_ok=True)
        write(self.config_file("portal"), yaml(self._portal_config()))
        for client in self._clients():
            write(self.config_file(client), yaml(self._client_config(client)))
        for number in ("", "2") if "gateway2" in self.parts else ("",):
            write(self.config_file(f"dataplane{number}"), yaml(self._dataplane_config(number)))
            write(self.config_file(f"gateway{number}"), yaml(self._gateway_config(number)))

    @property
    def started(self):
        """The processes that such a lab starts, in order."""
        return ("portal", "dataplane", "gateway", *(SECOND_GATEWAY if "gateway2" in self.parts else ()),
                *self._clients())

    def _clients(self):
        return ("client", "client2") if "client2" in self.parts else ("client",)

    def config_file(self, process):
        return self.directory / f"{process}.yaml"

    @property
    def narrow(self):
        """Whether the client's network lets out nothing but TCP to port 443."""
        return "tcp443" in self.parts or "proxy" in self.parts

    def _portal_link(self, by_name=False):
        port = 443 if self.narrow else 8443
        return {"address": f"{'portal.example' if by_name else net.PORTAL}:{port}", "server_name": "portal.example",
                "ca_file": str(self.directory / "pki" / "ca.pem")}

    def _device(self, index, side):
        interface = f"gw-{side}"
        if self.driver == "tap":
            return f"net_tap{index},iface=dtap-{side}"
        if self.driver == "af_xdp":
            return f"net_af_xdp{index},iface={interface}"
        return f"net_af_packet{index},iface={interface}"

    def _dataplane_config(self, number=""):
        wan, lan4, lan6 = ((net.GW2_WAN, net.LAN_GW2_4, net.LAN_GW2_6) if number else
                           (net.GW_WAN, net.LAN_GW4, net.LAN_GW6))
        return {
            "control": {"socket": str(self.socket(f"dataplane{number}"))},
            "private_key_file": str(self.directory / "state" / f"dataplane{number}.key"),
            "tunnel": {"port": "wan", "listen_port": 51820},
            "mtu": self.options.get("mtu", 1280),
            "dpdk": {"hugepages": False, "memory_mb": 256},
            "workers": {"count": 1, "poll": "adaptive"},
            "ports": [
                {"name": "wan", "device": self._device(0, "wan"), "addresses": [f"{wan}/26"], "mtu": 1500},
                {"name": "lan", "device": self._device(1, "lan"), "addresses": [f"{lan4}/24", f"{lan6}/64"],
                 "mtu": 1500},
            ],
            "routes": [{"to": "0.0.0.0/0", "via": net.GNAT_LAN, "port": "wan"}],
        }

    def _gateway_config(self, number=""):
        return {
            "dataplane": {"socket": str(self.socket(f"dataplane{number}"))},
            "control": {"socket": str(self.socket(f"gateway{number}"))},
            "portal": self._portal_link(),
            "token_file": str(self.token("gw2" if number else "gw1")),
            "nameservers": [net.LAN_DNS4],
            "goodbye_on_exit": bool(self.options.get("goodbye_on_exit")),
            "state_directory": str(self.directory / "state" / f"gateway{number}"),
        }

    def _client_config(self, client):
        return {
            "control": {"socket": str(self.socket(client))},
            "portal": self._portal_link(by_name="ipv6only" in self.parts),
            "token_file": str(self.token(USERS[client])),
            "state_directory": str(self.directory / "state" / client),
            "tun": {"name": "penstock0", "mtu": self.options.get("mtu", 1280)},
            "dns": {"mode": "resolv_conf"},
            **({"proxy": f"{net.CNAT_LAN}:{access.PROXY_PORT}"} if "proxy" in self.parts else {}),
        }

    def _portal_config(self):
        web = {"tcp": ["80", "5201", "7000"], "udp": ["5201", "7000"], "icmp": True}
        six = [f"[{net.RELAY6}]"] if "ipv6only" in self.parts else []
        relays = [("relay1", (net.RELAY, net.RELAY_ALT, *six)),
                  *([("relay2", (net.RELAY2,))] if "relay2" in self.parts else [])]
        gateways = ("gw1", "gw2") if "gateway2" in self.parts else ("gw1",)
        return {
            "control": {"socket": str(self.socket("portal"))},
            "listen": f"{net.PORTAL}:{443 if self.narrow else 8443}",
            "tls": {"certificate_file": str(self.directory / "pki" / "portal.pem"),
                    "key_file": str(self.directory / "pki" / "portal.key")},
            "secret_file": str(self.directory / "state" / "portal.secret"),
            "relays": [{"id": name, "udp": [f"{address}:3478" for address in addresses], "realm": "penstock",
                        **({"tls": [{"endpoint": f"{addresses[0]}:443", "name": "relay.example"}]}
                           if self.narrow else {}),
                        "shared_secret_file": str(self.directory / "relay.secret")} for name, addresses in relays],
            "sites": [{"id": "hq", **self.options.get("site", {})}],
            "gateways": [{"id": gateway, "site": "hq", "token_sha256": self.token_hash(gateway)}
                         for gateway in gateways],
            "clients": [{"id": USERS[client], "token_sha256": self.token_hash(USERS[client]),
                         "groups": ["staff" if client == "client" else "guests"]} for client in self._clients()],
            "resources": [
                {"id": "corp", "site": "hq", "kind": "dns", "pattern": "**.corp.example", "filter": web},
                {"id": "lab-net", "site": "hq", "kind": "cidr", "prefix": net.CIDR4},
                {"id": "printer4", "site": "hq", "kind": "address", "prefix": net.ADDRESS4, "filter": web},
                {"id": "printer6", "site": "hq", "kind": "address", "prefix": net.ADDRESS6, "filter": web},
                {"id": "vault", "site": "hq", "kind": "address", "prefix": net.FORBIDDEN4},
            ],
            "policies": [
                {"group": "staff", "resource": "corp"},
                {"group": "staff", "resource": "lab-net"},
                {"group": "staff", "resource": "printer4"},
                {"group": "staff", "resource": "printer6"},
                {"group": "guests", "resource": "printer4"},
                {"group": "guests", "resource": "printer6"},
                # The policy names it, so the client knows it, but its condition fails from where the client is.
                {"group": "staff", "resource": "vault", "conditions": {"client_ranges": ["203.0.113.0/24"]}},
            ],
        }

    # ---- running ----

    def start(self, process):
        if process in USERS:
            # The resolver file as the network would have set it; the client puts it back when it ends.
            resolver = net.CNAT_LAN6 if "ipv6only" in self.parts else net.RESOLVER
            write(resolv_conf(self.network, HOST_OF[process]), f"nameserver {resolver}\n")
        is_dataplane = process.startswith("dataplane")
        arguments = self.options.get("client_arguments", []) if process in USERS else []
        self.processes.start(process, HOST_OF[process],
                             [str(self.binary(process)), "--config", str(self.config_file(process)), *arguments],
                             mount_bpf=is_dataplane and self.driver == "af_xdp")
        if is_dataplane and self.driver == "tap":
            self._join_taps(HOST_OF[process])

    def _join_taps(self, host):
        for side in ("wan", "lan"):
            wait_until(lambda s=side: self.network.ip(host, "link", "show", f"dtap-{s}", check=False).returncode == 0,
                       10, f"TAP dtap-{side}")
            self.network.ip(host, "link", "set", f"dtap-{side}", "master", f"br-{side}")
            self.network.sysctl(host, **{f"net__ipv6__conf__dtap-{side}__disable_ipv6": 1})
            self.network.ip(host, "link", "set", f"dtap-{side}", "up")

    def ctl(self, process, *arguments, as_json=True, check=True):
        command = [str(self.ctl_binary()), "--socket", str(self.socket(process)), *arguments]
        if as_json:
            command.append("--json")
        result = subprocess.run(command, text=True, capture_output=True, timeout=20)
        if result.returncode != 0:
            if check:
                raise LabError(f"penstockctl {' '.join(arguments)}: {result.stderr.strip()}")
            return None
        return json.loads(result.stdout) if as_json else result.stdout

    def state(self, process):
        answer = self.ctl(process, "status", check=False)
        return answer.get("state") if answer else None

    def wait_ready(self, process, seconds=20):
        def ready():
            if not self.processes.alive(process):
                raise LabError(f"{process} ended:\n{self.processes.tail(process)}")
            return self.state(process) == "ready"
        try:
            wait_until(ready, seconds, f"{process} ready")
        except LabError as error:
            raise LabError(f"{error} (state {self.state(process)})\n{self.processes.tail(process)}") from None


def resolv_conf(network, host):
    """`ip netns exec` binds this file over /etc/resolv.conf."""
    return pathlib.Path("/etc/netns") / network.namespace(host) / "resolv.conf"
