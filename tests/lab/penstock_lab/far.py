"""A network behind a router in the LAN: one hop more, whose MTU can be smaller.

    gw (data plane) --- 203.0.113.0/24 --- lan (router) --- 203.0.113.240/28 --- far
                        2001:db8:1a::/64                    2001:db8:1b::/64

Names under far.corp.example, every protocol and port allowed: `four` has an A record only, `six` an AAAA only, `both`
both. Set up with a lab whose Penstock has not been started; then `start()` it.
"""

import json

from . import topology as net
from .topology import namespaces, run

FAR4, ROUTER4, PREFIX4 = "203.0.113.242", "203.0.113.241", "203.0.113.240/28"
FAR6, ROUTER6, PREFIX6 = "2001:db8:1b::2", "2001:db8:1b::1", "2001:db8:1b::/64"
NAMES = {"four": ("A", FAR4), "six": ("AAAA", FAR6)}


class FarNetwork:
    def __init__(self, lab):
        self.lab = lab
        self.network = lab.network
        self.name = f"{lab.network.instance}-far"

    def up(self):
        self.down()
        run("ip", "netns", "add", self.name)
        lan = self.network.namespace("lan")
        run("ip", "link", "add", "to-far", "netns", lan, "type", "veth", "peer", "name", "eth0", "netns", self.name)
        for namespace, interface, addresses in ((lan, "to-far", (f"{ROUTER4}/28", f"{ROUTER6}/64")),
                                                (self.name, "eth0", (f"{FAR4}/28", f"{FAR6}/64"))):
            for key in ("all", "default", interface):
                run("ip", "netns", "exec", namespace, "sysctl", "-qw", f"net.ipv6.conf.{key}.accept_dad=0")
            for address in addresses:
                extra = ("nodad",) if ":" in address else ()
                run("ip", "-n", namespace, "address", "add", address, "dev", interface, *extra)
            run("ip", "-n", namespace, "link", "set", interface, "up")
        run("ip", "-n", self.name, "link", "set", "lo", "up")
        run("ip", "-n", self.name, "route", "add", "default", "via", ROUTER4)
        run("ip", "-n", self.name, "-6", "route", "add", "default", "via", ROUTER6)
        # The kernel's own limit of ICMP errors would hide hops.
        self.network.sysctl("lan", net__ipv4__ip_forward=1, net__ipv6__conf__all__forwarding=1,
                            net__ipv4__icmp_ratelimit=0, net__ipv6__icmp__ratelimit=0)
        for key in ("net.ipv4.icmp_ratelimit=0", "net.ipv6.icmp.ratelimit=0"):
            self.inside("sysctl", "-qw", key)
        # The router has several addresses on the LAN; answers come from these.
        run("ip", "-n", lan, "route", "add", f"{net.LAN_GW4}/32", "dev", "br0", "src", net.LAN_DNS4)
        run("ip", "-n", lan, "-6", "route", "add", f"{net.LAN_GW6}/128", "dev", "br0", "src", net.LAN_DNS6)
        self._names()
        self._configure()

    def down(self):
        if self.name in namespaces():
            run("ip", "netns", "delete", self.name)

    def start(self):
        for process in ("portal", "dataplane", "gateway", "client"):
            self.lab.start(process)

    def inside(self, *command, **options):
        return run("ip", "netns", "exec", self.name, *command, **options)

    def serve(self, name, *command):
        """Starts a server here; it ends with the lab."""
        self.lab.processes.start(name, "lan", ["ip", "netns", "exec", self.name, *command])

    def mtu(self, value):
        """Of the wire between router and this network, both ends."""
        run("ip", "-n", self.network.namespace("lan"), "link", "set", "to-far", "mtu", str(value))
        run("ip", "-n", self.name, "link", "set", "eth0", "mtu", str(value))

    def _names(self):
        zone = self.lab.directory / "nsd" / "corp.zone"
        lines = [f"{name}.far {kind} {address}" for name, (kind, address) in NAMES.items()]
        lines += [f"both.far {kind} {address}" for kind, address in NAMES.values()]
        zone.write_text(zone.read_text() + "\n".join(lines) + "\n")
        self.lab.processes.stop("dns")
        self.lab.processes.start("dns", "lan", ["nsd", "-d", "-c", str(self.lab.directory / "nsd" / "nsd.conf")])

    def _configure(self):
        def change(process, edit):
            path = self.lab.penstock.config_file(process)
            document = json.loads(path.read_text())
            edit(document)
            path.write_text(json.dumps(document, indent=1))

        def routes(document):
            document["routes"] += [{"to": PREFIX4, "via": net.LAN_DNS4, "port": "lan"},
                                   {"to": PREFIX6, "via": net.LAN_DNS6, "port": "lan"}]

        def resource(document):
            document["resources"].append({"id": "far", "site": "hq", "kind": "dns", "pattern": "*.far.corp.example"})
            document["policies"].append({"group": "staff", "resource": "far"})

        change("dataplane", routes)
        change("portal", resource)
