"""The lab's network: hosts are network namespaces, wires are veth pairs.

    client --- client's NAT --- internet --- gateway's NAT --- gateway (DPDK) --- LAN
               (cnat)           (inet:        (gnat)           (gw)             (lan: DNS, web
                                 portal,                                          servers, iperf3)
                                 relay, resolver, web)

What a lab may have besides (`parts`):

    roaming    a second uplink of the client, behind cnat2        client2   a second user behind the same NAT
    gateway2   a second gateway in the site, gw2                  relay2    a second relay

or another access network of the client (access.py):

    cgnat      another NAT, cgn, behind the first one; 100.64.0.0/24 between the two
    mobile     the client's own address is out of 100.64.0.0/10, which tunnels use too
    ipv6only   IPv6 alone, with NAT64 and DNS64 in the router
    dslite     IPv4 goes in IPv6 to the AFTR, aftr, and is translated there
    tcp443     nothing but TCP to port 443 gets out
    proxy      nothing gets out but by the HTTP proxy in the router

Everything lives inside namespaces named `<instance>-<host>`; the machine's own interfaces are never touched.
Addresses are from the documentation ranges.
"""

import subprocess

HOSTS = ("client", "cnat", "inet", "gnat", "gw", "lan")
PARTS = {"roaming": ("cnat2",), "gateway2": ("gw2",), "relay2": (), "client2": ("client2",), "cgnat": ("cgn",),
         "mobile": (), "ipv6only": (), "dslite": ("aftr",),
         "tcp443": (), "proxy": ()}  # part -> hosts it adds
ALL_HOSTS = HOSTS + tuple(host for hosts in PARTS.values() for host in hosts)

PORTAL = "198.51.100.10"
RELAY = "198.51.100.20"
RELAY_ALT = "198.51.100.21"      # second address of the relay: a second STUN server
RELAY2 = "198.51.100.22"
RESOLVER = "198.51.100.53"
PUBLIC_WEB = "198.51.100.80"
CNAT_WAN = "198.51.100.30"
GNAT_WAN = "198.51.100.40"
CLIENT = "198.51.100.130"
CNAT_LAN = "198.51.100.129"
CLIENT2 = "198.51.100.131"       # a second user's machine, behind the same NAT
SHARED_CLIENT = "100.64.0.2"     # where shared address space (RFC 6598) is used: it overlaps the tunnel's own range
SHARED_ROUTER = "100.64.0.1"
NAT64 = "2001:db8:64::/96"
CLIENT6 = "2001:db8:c::2"
CNAT_LAN6 = "2001:db8:c::1"
CNAT_WAN6 = "2001:db8:0:1::30"
AFTR6 = "2001:db8:0:1::60"
RELAY6 = "2001:db8:0:1::20"
CNAT2_WAN = "198.51.100.31"      # the client's second uplink
CLIENT2_UPLINK = "198.51.100.146"
CNAT2_LAN = "198.51.100.145"
GW_WAN = "198.51.100.194"        # owned by the data plane, not by the kernel
GW_MGMT = "198.51.100.195"       # the control process's own interface
GNAT_LAN = "198.51.100.193"
GW2_WAN = "198.51.100.196"
GW2_MGMT = "198.51.100.197"

LAN_GW4 = "203.0.113.1"          # owned by the data plane
LAN_GW6 = "2001:db8:1a::1"
LAN_MGMT4 = "203.0.113.2"
LAN_GW2_4 = "203.0.113.3"
LAN_GW2_6 = "2001:db8:1a::3"
LAN_MGMT2_4 = "203.0.113.4"
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
        if host not in ALL_HOSTS:
            raise LabError(f"unknown host {host}; there are: {' '.join(ALL_HOSTS)}")
        return f"{self.instance}-{host}"

    def ip(self, host, *arguments, **options):
        return run("ip", "-n", self.namespace(host), *arguments, **options)

    def operational(self, host, interface):
        """Whether an interface lets frames through, which is some time after it was set up."""
        return '"operstate":"UP"' in self.ip(host, "-j", "link", "show", interface, capture=True)

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

    def up(self, driver, parts=()):
        """Everything but the client's side, which access.py adds."""
        for host in hosts_of(parts):
            run("ip", "netns", "add", self.namespace(host))
            self.ip(host, "link", "set", "lo", "up")
            self.sysctl(host, net__ipv6__conf__all__accept_dad=0, net__ipv6__conf__default__accept_dad=0,
                        net__ipv4__ping_group_range="0 2147483647")
        self._wan()
        self.bridge("gnat", "site", ())
        self.address("gnat", "site", f"{GNAT_LAN}/26")
        self.sysctl("gnat", net__ipv4__ip_forward=1)
        self._lan()
        self._gateway_host("gw", "", GW_MGMT, LAN_MGMT4, driver)
        if "gateway2" in parts:
            self._gateway_host("gw2", "2", GW2_MGMT, LAN_MGMT2_4, driver)
        if "relay2" in parts:
            self.address("inet", "br0", f"{RELAY2}/25")

    def _wan(self):
        self.wire("inet", "to-gnat", "gnat", "wan")
        self.bridge("inet", "br0", ("to-gnat",))
        self.address("inet", "br0", *(f"{a}/25" for a in (PORTAL, RELAY, RELAY_ALT, RESOLVER, PUBLIC_WEB)))
        self.address("gnat", "wan", f"{GNAT_WAN}/25")

    def _gateway_host(self, host, number, mgmt_wan, mgmt_lan, driver):
        # The kernel must own nothing on what DPDK owns, or it answers with resets.
        for interface, other, there, bridge in (
                ("gw-wan", "gnat", "to-gw", "site"), ("mgmt-wan", "gnat", "to-mgmt", "site"),
                ("gw-lan", "lan", "to-gw", "br0"), ("mgmt-lan", "lan", "to-mgmt", "br0")):
            self.wire(host, interface, other, f"{there}{number}")
            self.ip(other, "link", "set", f"{there}{number}", "master", bridge)
        for interface in ("gw-wan", "gw-lan"):
            self.sysctl(host, **{f"net__ipv6__conf__{interface}__disable_ipv6": 1})
        self.sysctl(host, net__ipv4__conf__all__arp_ignore=1, net__ipv4__conf__all__arp_filter=1)
        self.address(host, "mgmt-wan", f"{mgmt_wan}/26")
        self.address(host, "mgmt-lan", f"{mgmt_lan}/24")
        self.ip(host, "route", "add", "default", "via", GNAT_LAN)
        if driver == "tap":
            # DPDK makes the TAPs itself; a bridge per side joins them to the wires once they exist (penstock.py).
            for side in ("wan", "lan"):
                self.bridge(host, f"br-{side}", (f"gw-{side}",))
                self.sysctl(host, **{f"net__ipv6__conf__br-{side}__disable_ipv6": 1})

    def _lan(self):
        self.bridge("lan", "br0", ())
        self.address("lan", "br0", *(f"{a}/24" for a in LAN_ADDRESSES4))
        self.address("lan", "br0", *(f"{a}/64" for a in LAN_ADDRESSES6))
        self.sysctl("lan", net__ipv4__ip_nonlocal_bind=1)

    def down(self):
        existing = set(namespaces())
        for host in ALL_HOSTS:
            name = self.namespace(host)
            if name in existing:
                run("ip", "netns", "delete", name)

    def exists(self):
        return self.namespace("client") in namespaces()


def hosts_of(parts):
    """Hosts of a lab with these parts."""
    unknown = [part for part in parts if part not in PARTS]
    if unknown:
        raise LabError(f"unknown part {unknown[0]}; there are: {' '.join(PARTS)}")
    return HOSTS + tuple(host for part, hosts in PARTS.items() if part in parts for host in hosts)


def namespaces():
    return [line.split()[0] for line in run("ip", "netns", "list", capture=True).splitlines() if line.strip()]
