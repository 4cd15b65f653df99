"""How the client is connected: the plain network behind one NAT, and the stranger ones that exist.

A router's interfaces are `lan` (inside) and `wan` (outside) wherever it stands, so that the same NAT rules fit.
"""

import pathlib

from . import topology as net
from .process import wait_until


def client_site(network, parts):
    """The client, its router or routers, and what else of `parts` belongs here."""
    if "cgnat" in parts:
        _uplink(network, "cgn", net.CNAT_WAN)
        network.wire("cgn", "lan", "cnat", "wan")
        network.address("cgn", "lan", f"{net.SHARED_ROUTER}/24")
        network.address("cnat", "wan", f"{net.SHARED_CLIENT}/24")
        network.ip("cnat", "route", "add", "default", "via", net.SHARED_ROUTER)
    elif "dslite" in parts:
        _dslite(network)
    else:
        _uplink(network, "cnat", net.CNAT_WAN)
    client, router, length = ((net.SHARED_CLIENT, net.SHARED_ROUTER, 24) if "mobile" in parts else
                              (net.CLIENT, net.CNAT_LAN, 28))
    network.bridge("cnat", "lan", ())
    network.address("cnat", "lan", f"{router}/{length}")
    network.sysctl("cnat", net__ipv4__ip_forward=1)
    _machine(network, "client", f"{client}/{length}", router)
    if "client2" in parts:
        _machine(network, "client2", f"{net.CLIENT2}/28", net.CNAT_LAN)
    if "roaming" in parts:
        _second_uplink(network)
    if "ipv6only" in parts:
        _ipv6_only(network)


def _uplink(network, router, address):
    network.wire("inet", f"to-{router}", router, "wan")
    network.ip("inet", "link", "set", f"to-{router}", "master", "br0")
    network.address(router, "wan", f"{address}/25")
    network.sysctl(router, net__ipv4__ip_forward=1)


def _machine(network, host, address, router):
    network.wire(host, "eth0", "cnat", f"to-{host}")
    network.ip("cnat", "link", "set", f"to-{host}", "master", "lan")
    network.address(host, "eth0", address)
    network.ip(host, "route", "add", "default", "via", router)


def _second_uplink(network):
    """Another network that the client may roam to: its interface is there, without link or address."""
    _uplink(network, "cnat2", net.CNAT2_WAN)
    network.wire("client", "eth1", "cnat2", "lan")
    network.ip("client", "link", "set", "eth1", "down")
    network.address("cnat2", "lan", f"{net.CNAT2_LAN}/28")


def _ipv6_only(network):
    """No IPv4 on the client's link; the router translates (NAT64, tayga and the NAT behind it) and routes IPv6 as it
    is."""
    network.ip("client", "address", "flush", "dev", "eth0", "scope", "global")
    network.ip("client", "route", "flush", "default", check=False)
    network.address("client", "eth0", f"{net.CLIENT6}/64")
    network.ip("client", "-6", "route", "add", "default", "via", net.CNAT_LAN6)
    network.address("cnat", "lan", f"{net.CNAT_LAN6}/64")
    network.address("cnat", "wan", f"{net.CNAT_WAN6}/64")
    network.address("inet", "br0", f"{net.RELAY6}/64")
    network.ip("inet", "-6", "route", "add", f"{net.CNAT_LAN6.rsplit('::', 1)[0]}::/64", "via", net.CNAT_WAN6)
    network.sysctl("cnat", net__ipv6__conf__all__forwarding=1)


def _dslite(network):
    """RFC 6333: the router has IPv6 alone outside, IPv4 goes in it to the AFTR, which has the one IPv4 address."""
    _uplink(network, "aftr", net.CNAT_WAN)
    network.wire("inet", "to-cnat", "cnat", "wan")
    network.ip("inet", "link", "set", "to-cnat", "master", "br0")
    network.address("cnat", "wan", f"{net.CNAT_WAN6}/64")
    network.address("aftr", "wan", f"{net.AFTR6}/64")
    network.sysctl("cnat", net__ipv4__ip_forward=1)


def start_softwire(lab):
    """Both ends of the tunnel and the routes into it."""
    binary = str(pathlib.Path(lab.settings["build"]) / "tests" / "lab" / "lab_softwire")
    for host, local, remote, route in (("cnat", net.CNAT_WAN6, net.AFTR6, "default"),
                                       ("aftr", net.AFTR6, net.CNAT_WAN6, "198.51.100.128/28")):
        lab.processes.start(f"softwire-{host}", host, [binary, "--tun", "lan" if host == "aftr" else "sw0", "--local",
                                                       local, "--remote", remote])
        device = "lan" if host == "aftr" else "sw0"
        wait_until(lambda h=host, d=device: lab.network.ip(h, "link", "show", d, check=False).returncode == 0, 10,
                   f"softwire on {host}")
        lab.network.ip(host, "link", "set", device, "mtu", "1460", "up")
        lab.network.ip(host, "route", "add", route, "dev", device)


def start_nat64(lab):
    """tayga and a resolver that makes up AAAA records (RFC 6147), both on the client's router."""
    directory = lab.directory / "nat64"
    directory.mkdir(parents=True, exist_ok=True)
    config = directory / "tayga.conf"
    config.write_text(f"tun-device nat64\nipv4-addr 198.51.100.161\nprefix {net.NAT64}\n"
                      f"dynamic-pool 198.51.100.160/28\ndata-dir {directory}\n")
    network = lab.network
    network.inside("cnat", "tayga", "--config", str(config), "--mktun")
    network.ip("cnat", "link", "set", "nat64", "up")
    network.ip("cnat", "route", "add", "198.51.100.160/28", "dev", "nat64")
    network.ip("cnat", "-6", "route", "add", net.NAT64, "dev", "nat64")
    lab.processes.start("nat64", "cnat", ["tayga", "--config", str(config), "--nodetach"])
    dns = directory / "unbound.conf"
    dns.write_text(f"""server:
  interface: {net.CNAT_LAN6}
  access-control: ::/0 allow
  do-daemonize: no
  username: ""
  chroot: ""
  directory: "{directory}"
  pidfile: ""
  use-syslog: no
  logfile: ""
  module-config: "dns64 iterator"
  dns64-prefix: {net.NAT64}
  do-not-query-localhost: no
forward-zone:
  name: "."
  forward-addr: {net.RESOLVER}
remote-control:
  control-enable: no
""")
    lab.processes.start("dns64", "cnat", ["unbound", "-d", "-p", "-c", str(dns)])
    wait_until(lambda: f"[{net.CNAT_LAN6}]:53" in network.inside("cnat", "ss", "-Hlnu", capture=True), 10, "DNS64")


# Networks that let almost nothing out; names are resolved by the router.
ONLY_443 = """
table ip narrow {
  chain out {
    type filter hook forward priority filter - 2;
    iifname "lan" tcp dport 443 accept
    iifname "lan" reject with icmp type admin-prohibited
  }
}
"""
NOTHING = ONLY_443.replace('    iifname "lan" tcp dport 443 accept\n', "")
PROXY_PORT = 3128


def narrow(lab, with_proxy):
    lab.network.inside("cnat", "nft", "-f", "-", text_input=NOTHING if with_proxy else ONLY_443)
    if with_proxy:
        config = lab.directory / "tinyproxy.conf"
        config.write_text(f"Port {PROXY_PORT}\nListen {net.CNAT_LAN}\nTimeout 600\nMaxClients 50\n"
                          f"Allow {net.CLIENT}\nConnectPort 443\n")
        lab.processes.start("proxy", "cnat", ["tinyproxy", "-d", "-c", str(config)])
        wait_until(lambda: f":{PROXY_PORT} " in lab.network.inside("cnat", "ss", "-Hlnt", capture=True), 10, "proxy")


def nats(parts, which):
    """The routers that translate, on the client's side or the gateway's."""
    if "dslite" in parts:
        client = ["aftr"]
    else:
        client = ["cnat", *(host for part, host in (("roaming", "cnat2"), ("cgnat", "cgn")) if part in parts)]
    return {"gateway": ["gnat"], "client": client, "both": [*client, "gnat"]}[which]


# A captive portal: until somebody has agreed to the terms, nothing passes; web pages are somebody else's.
CAPTIVE = """
table ip captive {
  chain pages {
    type nat hook prerouting priority dstnat - 1;
    iifname "lan" tcp dport 80 redirect to :8080
  }
  chain hold {
    type filter hook forward priority filter - 2;
    iifname "lan" drop
  }
}
"""


def close_captive_portal(network):
    network.inside("cnat", "nft", "-f", "-", text_input=CAPTIVE)


def open_captive_portal(network):
    network.inside("cnat", "nft", "delete", "table", "ip", "captive")
