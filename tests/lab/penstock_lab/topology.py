"""The lab's network: hosts are network namespaces, wires are veth pairs.

    client --- client's NAT --- internet --- gateway's NAT --- gateway (DPDK) --- LAN
               (cnat)           (inet:        (gnat)           (gw)             (lan: DNS, web
                                 portal,                                          servers, iperf3)
                                 relay, resolver, web)

Everything lives inside namespaces named `<instance>-<host>`; the machine's own interfaces are never touched.
Addresses are from the documentation ranges.
"""

import subprocess

HOSTS = ("client", "cnat", "inet", "gnat", "gw", "lan")

PORTAL = "198.51.100.10"
RELAY = "198.51.100.20"
RELAY_ALT = "198.51.100.21"      # second address of the relay: a second STUN server
RESOLVER = "198.51.100.53"
PUBLIC_WEB = "198.51.100.80"
CNAT_WAN = "198.51.100.30"
GNAT_WAN = "198.51.100.40"
CLIENT = "198.51.100.130"
CNAT_LAN = "198.51.100.129"
GW_WAN = "198.51.100.194"        # owned by the data plane, not by the kernel
GW_MGMT = "198.51.100.195"       # the control process's own interface
GNAT_LAN = "198.51.100.193"

LAN_GW4 = "203.0.113.1"          # owned by the data plane
LAN_GW6 = "2001:db8:1a::1"
LAN_MGMT4 = "203.0.113.2"
LAN_DNS4 = "203.0.113.53"
LAN_DNS6 = "2001:db8:1a::53"
WEB4 = "203.0.113.80"
WEB6 = "2001:db8:1a::80"
WEB_BOTH4 = "203.0.113.90"
WEB_BOTH6 = "2001:db8:1a::90"
CIDR4 = "203.0.113.128/26"
CIDR_HOST4 = "203.0.113.130"
ADDRESS4 = "203.0.113.200"
ADDRESS6 = "2001:db8:1a::200"
FORBIDDEN4 = "203.0.113.99"

LAN_ADDRESSES4 = (LAN_DNS4, WEB4, WEB_BOTH4, CIDR_HOST4, ADDRESS4, FORBIDDEN4)
LAN_ADDRESSES6 = (LAN_DNS6, WEB6, WEB_BOTH6, ADDRESS6)


def run(*command, check=True, capture=False, text_input=None):
    """Runs a command; an error carries the command's own words."""
    result = subprocess.run(command, input=text_input, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if check and result.returncode != 0:
        raise LabError(f"{' '.join(command)}: {result.stderr.strip() or result.stdout.strip()}")
    return result.stdout if capture else result


class LabError(Exception):
    """Something in the lab did not work; the text is for the person at the terminal."""


class Network:
    """Namespaces, wires and addresses of one lab instance."""

    def __init__(self, instance):
        self.instance = instance

    def namespace(self, host):
        if host not in HOSTS:
            raise LabError(f"unknown host {host}; there are: {' '.join(HOSTS)}")
        return f"{self.instance}-{host}"

    def ip(self, host, *arguments, **options):
        return run("ip", "-n", self.namespace(host), *arguments, **options)

    def inside(self, host, *command, **options):
        return run("ip", "netns", "exec", self.namespace(host), *command, **options)

    def sysctl(self, host, **values):
        for key, value in values.items():
            self.inside(host, "sysctl", "-qw", f"{key.replace('__', '.')}={value}")

    def wire(self, host_a, interface_a, host_b, interface_b):
        """A veth pair, up at both ends, without offloads that DPDK's packet sockets would see half-done."""
        run("ip", "link", "add", interface_a, "netns", self.namespace(host_a), "type", "veth",
            "peer", "name", interface_b, "netns", self.namespace(host_b))
        for host, interface in ((host_a, interface_a), (host_b, interface_b)):
            self.inside(host, "ethtool", "-K", interface, "tx", "off", "tso", "off", "gso", "off", "gro", "off")
            self.ip(host, "link", "set", interface, "up")

    def bridge(self, host, name, ports):
        self.ip(host, "link", "add", name, "type", "bridge", "forward_delay", "0", "mcast_snooping", "0")
        for port in ports:
            self.ip(host, "link", "set", port, "master", name)
        self.ip(host, "link", "set", name, "up")

    def address(self, host, interface, *addresses):
        for address in addresses:
            extra = ("nodad",) if ":" in address else ()
            self.ip(host, "address", "add", address, "dev", interface, *extra)

    def up(self, driver):
        for host in HOSTS:
            run("ip", "netns", "add", self.namespace(host))
            self.ip(host, "link", "set", "lo", "up")
            self.sysctl(host, net__ipv6__conf__all__accept_dad=0, net__ipv6__conf__default__accept_dad=0,
                        net__ipv4__ping_group_range="0 2147483647")
        self._wan()
        self._client_site()
        self._gateway_site(driver)
        self._lan()

    def _wan(self):
        self.wire("inet", "to-cnat", "cnat", "wan")
        self.wire("inet", "to-gnat", "gnat", "wan")
        self.bridge("inet", "br0", ("to-cnat", "to-gnat"))
        self.address("inet", "br0", *(f"{a}/25" for a in (PORTAL, RELAY, RELAY_ALT, RESOLVER, PUBLIC_WEB)))
        self.address("cnat", "wan", f"{CNAT_WAN}/25")
        self.address("gnat", "wan", f"{GNAT_WAN}/25")

    def _client_site(self):
        self.wire("client", "eth0", "cnat", "lan")
        self.address("client", "eth0", f"{CLIENT}/26")
        self.address("cnat", "lan", f"{CNAT_LAN}/26")
        self.ip("client", "route", "add", "default", "via", CNAT_LAN)
        self.sysctl("cnat", net__ipv4__ip_forward=1)

    def _gateway_site(self, driver):
        # The kernel must own nothing on what DPDK owns, or it answers with resets.
        self.wire("gw", "gw-wan", "gnat", "to-gw")
        self.wire("gw", "mgmt-wan", "gnat", "to-mgmt")
        self.wire("gw", "gw-lan", "lan", "to-gw")
        self.wire("gw", "mgmt-lan", "lan", "to-mgmt")
        for interface in ("gw-wan", "gw-lan"):
            self.sysctl("gw", **{f"net__ipv6__conf__{interface}__disable_ipv6": 1})
        self.sysctl("gw", net__ipv4__conf__all__arp_ignore=1, net__ipv4__conf__all__arp_filter=1)
        self.bridge("gnat", "site", ("to-gw", "to-mgmt"))
        self.address("gnat", "site", f"{GNAT_LAN}/26")
        self.address("gw", "mgmt-wan", f"{GW_MGMT}/26")
        self.address("gw", "mgmt-lan", f"{LAN_MGMT4}/24")
        self.ip("gw", "route", "add", "default", "via", GNAT_LAN)
        self.sysctl("gnat", net__ipv4__ip_forward=1)
        if driver == "tap":
            # DPDK makes the TAPs itself; a bridge per side joins them to the wires once they exist (processes.py).
            for side in ("wan", "lan"):
                self.bridge("gw", f"br-{side}", (f"gw-{side}",))
                self.sysctl("gw", **{f"net__ipv6__conf__br-{side}__disable_ipv6": 1})

    def _lan(self):
        self.bridge("lan", "br0", ("to-gw", "to-mgmt"))
        self.address("lan", "br0", *(f"{a}/24" for a in LAN_ADDRESSES4))
        self.address("lan", "br0", *(f"{a}/64" for a in LAN_ADDRESSES6))
        self.sysctl("lan", net__ipv4__ip_nonlocal_bind=1)

    def down(self):
        existing = set(namespaces())
        for host in HOSTS:
            name = self.namespace(host)
            if name in existing:
                run("ip", "netns", "delete", name)

    def exists(self):
        return self.namespace("client") in namespaces()


def namespaces():
    return [line.split()[0] for line in run("ip", "netns", "list", capture=True).splitlines() if line.strip()]
