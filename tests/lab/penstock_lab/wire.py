"""A NAT and its links in user space (tests/lab/wire): what nftables cannot be. Kind
`wire:MAPPING,FILTERING,PORTS[,...]`; tests/lab/wire/spec.h has the words. `egress=N` gives the NAT N outside
addresses."""

import pathlib
import socket

from . import topology as net
from .process import wait_until
from .topology import LabError

# host -> (inside interface, inside prefix, own inside address, outside addresses, the router's own address outside)
PLACES = {
    "cnat": ("lan", "198.51.100.128/28", net.CNAT_LAN, (net.CNAT_WAN, "198.51.100.34", "198.51.100.35"),
             "198.51.100.32"),
    "cnat2": ("lan", "198.51.100.144/28", net.CNAT2_LAN, (net.CNAT2_WAN, "198.51.100.36", "198.51.100.37"),
              "198.51.100.33"),
    "gnat": ("site", "198.51.100.192/26", net.GNAT_LAN, (net.GNAT_WAN, "198.51.100.44", "198.51.100.45"),
             "198.51.100.42"),
}
TABLE = "100"


def is_wire(kind):
    return kind.startswith("wire:")


def split_egress(spec):
    """(specification as the program takes it, number of outside addresses)."""
    words, egress = [], 1
    for word in spec.split(","):
        key, _, value = word.partition("=")
        if key == "egress":
            if value not in ("1", "2", "3"):
                raise LabError(f"egress is 1, 2 or 3, not {value}")
            egress = int(value)
        else:
            words.append(word)
    return ",".join(words), egress


class WireNat:
    def __init__(self, lab, host):
        self.lab, self.host = lab, host
        self.network = lab.network
        self.name = f"wire-{host}"
        self.control = lab.directory / f"{self.name}.sock"

    def start(self, kind, rejects, seed):
        """Replaces what the kernel would do in this router."""
        if self.host not in PLACES:
            raise LabError(f"no wire can stand in for the NAT of {self.host}")
        inside, prefix, own, outside, router = PLACES[self.host]
        spec, egress = split_egress(kind[len("wire:"):])
        nat = not spec.startswith("none")
        if rejects and nat:
            spec += ",reject"
        addresses = outside[:egress] if nat else ()
        network, host = self.network, self.host
        network.ip(host, "address", "flush", "dev", "wan", "scope", "global")
        network.ip(host, "address", "add", f"{router}/25", "dev", "wan")
        binary = pathlib.Path(self.lab.settings["build"]) / "tests" / "lab" / "lab_wire"
        if not binary.exists():
            raise LabError(f"{binary} is not built")
        command = [str(binary), "--tun", "nat0", "--inside", prefix, "--own", own, "--spec", spec, "--seed", str(seed),
                   "--control", str(self.control)]
        if addresses:
            command += ["--outside", *addresses]
        self.lab.processes.start(self.name, host, command)

        def up():
            if not self.lab.processes.alive(self.name):
                raise LabError(f"{self.name} ended:\n{self.lab.processes.tail(self.name)}")
            return network.ip(host, "link", "show", "nat0", check=False).returncode == 0 and self.control.exists()
        wait_until(up, 10, f"wire on {host}")
        network.ip(host, "link", "set", "nat0", "up")
        for scope in ("all", "default", "wan", inside, "nat0"):
            network.sysctl(host, **{f"net__ipv4__conf__{scope}__rp_filter": 0,
                                    f"net__ipv4__conf__{scope}__send_redirects": 0})
        network.sysctl(host, net__ipv4__neigh__wan__proxy_delay=0)
        # Out of the inside and to the outside addresses: into the wire. What leaves it goes where it is addressed to.
        network.ip(host, "route", "replace", "default", "dev", "nat0", "table", TABLE)
        network.ip(host, "rule", "add", "iif", inside, "lookup", TABLE)
        for address in addresses or (prefix,):
            network.ip(host, "route", "replace", address, "dev", "nat0",
                       *(("table", "101") if not nat else ()))
        if nat:
            for address in addresses:
                network.ip(host, "neigh", "replace", "proxy", address, "dev", "wan")
        else:
            network.ip(host, "rule", "add", "iif", "wan", "lookup", "101")
            # Nobody translates: the internet must know the way back.
            network.ip("inet", "route", "replace", prefix, "via", router)

    def command(self, words):
        """Sends a command and waits for its answer; anything but ok or a table is an error."""
        mine = self.lab.directory / f"{self.name}-ask.sock"
        mine.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as asker:
            asker.settimeout(5)
            asker.bind(str(mine))
            try:
                asker.sendto(words.encode(), str(self.control))
                answer = asker.recv(4096).decode()
            except OSError as error:
                raise LabError(f"{self.name}: {words}: {error}") from None
        mine.unlink(missing_ok=True)
        if answer != "ok" and words != "show":
            raise LabError(f"{self.name}: {words}: {answer}")
        return answer

    def forget(self):
        self.command("forget")
