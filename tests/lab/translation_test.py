#!/usr/bin/python3
"""All four translations between a real client and real servers, with the kernels on both sides as judges.

A client's names are reached over IPv4 and IPv6 whatever records they have: NAT44 and NAT64 to `four`, NAT46 and NAT66
to `six`, both behind a router in the LAN (penstock_lab/far.py).
"""

import contextlib
import ipaddress
import json
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import time

from penstock_lab.lab import Lab
from penstock_lab import topology as net
from penstock_lab.far import FarNetwork
from penstock_lab.process import wait_until
from penstock_lab.services import write
from penstock_lab.topology import LabError

BUILD = os.environ.get("PENSTOCK_BUILD")
PEER = pathlib.Path(__file__).with_name("translation_peer.py")
DOMAIN = "far.corp.example"



def pooled(router):
    """The IPv4 address that stands for an IPv6 router (RFC 6791): of 100.100.111.128/25, by FNV-1a of its address."""
    value = 2166136261
    for byte in ipaddress.IPv6Address(router).packed:
        value = (value ^ byte) * 16777619 & 0xFFFFFFFF
    value ^= value >> 16
    return str(ipaddress.IPv4Address("100.100.111.128") + (value & 127))


# translation: (name, family of the client, the router as the client sees it)
TRANSLATIONS = {
    "NAT44": (f"four.{DOMAIN}", 4, net.LAN_DNS4),
    "NAT64": (f"four.{DOMAIN}", 6, "64:ff9b::cb00:7135"),  # under the prefix: RFC 7915 section 4.2
    "NAT46": (f"six.{DOMAIN}", 4, pooled(net.LAN_DNS6)),  # has no IPv4 address: RFC 6791
    "NAT66": (f"six.{DOMAIN}", 6, net.LAN_DNS6),
}
OWN_HOP = {4: "100.100.111.2", 6: "fd00:2021:1111:8000:100:100:111:2"}
TCPI_OPTIONS = 1 | 2 | 4  # timestamps, SACK, window scaling (linux/tcp.h)


class Tests:
    def __init__(self, lab, far, inner=1280):
        self.lab, self.far, self.inner = lab, far, inner  # MTU inside the tunnel

    def client(self, *command, seconds=30):
        done = subprocess.run(["ip", "netns", "exec", self.lab.network.namespace("client"), *command], text=True,
                              capture_output=True, timeout=seconds, check=False)
        return done.returncode, done.stdout, done.stderr

    def ask(self, what, name, family, number=0):
        _, out, errors = self.client("/usr/bin/python3", str(PEER), "ask", what, name, str(family), str(number))
        if not out:
            raise LabError(f"{what}: {errors.strip()[-300:]}")
        answer = json.loads(out)
        if "error" in answer:
            raise LabError(f"{what} {name} over IPv{family}: {answer['error']}")
        return answer

    def each(self):
        return [(kind, name, family) for kind, (name, family, _) in TRANSLATIONS.items()]

    def proxy(self, name, family):
        _, out, _ = self.client("getent", f"ahostsv{family}", name)
        return out.split()[0]

    # ---- hops ----

    def hops_of(self, kind):
        name, family, router = TRANSLATIONS[kind]
        return [OWN_HOP[family], router, self.proxy(name, family)]

    def traceroute(self, kind, *method):
        name, family, _ = TRANSLATIONS[kind]
        code, out, errors = self.client("traceroute", f"-{family}", "-n", "-q", "1", "-w", "3", "-m", "5", *method,
                                        name)
        seen = [line.split()[1] for line in out.splitlines()[1:]]
        if code != 0 or seen != self.hops_of(kind):
            raise LabError(f"{kind}: saw {seen} {errors.strip()}, want {self.hops_of(kind)}")

    def traceroute_udp_shows_the_true_hops(self):
        for kind in TRANSLATIONS:
            self.traceroute(kind)

    def traceroute_icmp_shows_the_true_hops(self):
        for kind in TRANSLATIONS:
            self.traceroute(kind, "-I")

    def traceroute_tcp_shows_the_true_hops(self):
        for kind in TRANSLATIONS:
            self.traceroute(kind, "-T", "-p", "7001")

    def tracepath_shows_hops_and_mtu(self):
        for kind, name, family in self.each():
            _, out, errors = self.client("tracepath", f"-{family}", "-n", "-m", "5", name)
            lines = [line.split() for line in out.splitlines() if line.strip()]
            hops = {words[0]: words[1] for words in lines if words[0].endswith(":") and words[0][0].isdigit() and
                    words[1] not in ("[LOCALHOST]", "pmtu", "no")}
            seen = list(hops.values())
            if seen != self.hops_of(kind) or "reached" not in out or f"pmtu {self.inner}" not in out:
                raise LabError(f"{kind}: saw {seen}, want {self.hops_of(kind)}: {out} {errors}")

    # ---- sizes ----

    def ping_4000(self):
        for kind, name, family in self.each():
            # The first answer may be what teaches the server the way's MTU.
            self.client("ping", f"-{family}", "-n", "-c", "1", "-W", "1", "-s", "1400", name)
            code, out, errors = self.client("ping", f"-{family}", "-n", "-c", "3", "-i", "0.2", "-W", "3", "-s", "4000",
                                            name)
            if code != 0 or " 0% packet loss" not in out:
                raise LabError(f"{kind}: {out} {errors}")

    def fragmented_udp_both_ways(self):
        for kind, name, family in self.each():
            for size in (1233, 4000, 20000):
                answer = self.ask("datagram", name, family, size)
                if answer != {"same": True, "bytes": size}:
                    raise LabError(f"{kind}, {size} bytes: {answer}")

    def servers_learn_the_path_mtu(self):
        """A datagram that must not be cut and does not fit the tunnel: the server's kernel is told the right MTU."""
        wanted = {kind: self.inner + more for kind, more in (("NAT44", 0), ("NAT64", -20), ("NAT46", 20), ("NAT66", 0))}
        for kind, name, family in self.each():
            for ip_family in ("-4", "-6"):
                self.far.inside("ip", ip_family, "route", "flush", "cache")
            seen = self.ask("long", name, family, min(self.inner + 120, 1452))["seen"]
            if not seen or seen[-1] is None or seen[-1] != [wanted[kind], 2]:
                raise LabError(f"{kind}: {seen}, want MTU {wanted[kind]}")

    def no_black_hole_behind_a_narrow_hop(self):
        """1400 bytes on a wire of the LAN and of the WAN, then 1280 in the LAN: nothing stalls in either direction"""
        wan = [("inet", "to-gnat"), ("gnat", "wan")]
        try:
            for lan_mtu, wan_mtu in ((1400, 1500), (1500, 1400), (1280, 1400)):
                self.far.mtu(lan_mtu)
                for host, interface in wan:
                    self.lab.network.ip(host, "link", "set", interface, "mtu", str(wan_mtu))
                for kind, name, family in self.each():
                    if not self.ask("echo", name, family, 300_000)["same"]:
                        raise LabError(f"{kind}, LAN {lan_mtu}, WAN {wan_mtu}: bytes differ")
        finally:
            self.far.mtu(1500)
            for host, interface in wan:
                self.lab.network.ip(host, "link", "set", interface, "mtu", "1500")

    # ---- TCP ----

    def tcp_options_survive(self):
        """timestamps, SACK and window scaling are agreed on; the MSS fits the tunnel"""
        for kind, name, family in self.each():
            answer = self.ask("echo", name, family, 200_000)
            fits = self.inner - (60 if family == 6 else 40) - 12
            agreed = answer["options"] & TCPI_OPTIONS == TCPI_OPTIONS
            if not agreed or not 1100 <= answer["mss"] <= fits or not answer["same"]:
                raise LabError(f"{kind}: {answer}")

    def tcp_endings(self):
        """resets and half-closes of either side arrive as what they are; a closed port refuses at once"""
        for kind, name, family in self.each():
            def expect(what, got, wanted, kind=kind):
                if got != wanted:
                    raise LabError(f"{kind}, {what}: {got}, want {wanted}")

            expect("server resets", self.ask("reset", name, family), {"saw": "reset"})
            expect("server closes first", self.ask("close_first", name, family), {"got": "goodbye"})
            for abort, ended in ((0, "closed"), (1, "reset")):
                file = self.lab.directory / "peer" / "ended"
                file.unlink(missing_ok=True)
                self.ask("stay", name, family, abort)
                wait_until(lambda f=file: f.exists() and f.read_text(), 5, f"{kind}: the server sees the end")
                expect("client ends", file.read_text(), ended)
            late = self.lab.directory / "peer" / "after-fin"
            wait_until(lambda f=late: f.exists() and f.read_bytes() == b"still here", 5, f"{kind}: data behind the FIN")
            late.unlink()
            started = time.monotonic()
            expect("closed port", self.ask("refused", name, family), {"saw": "ECONNREFUSED"})
            if time.monotonic() - started > 2:
                raise LabError(f"{kind}: refused only after {time.monotonic() - started:.1f} s")

    def ftp_passive(self):
        """curl fetches and stores over passive FTP, whatever the families, without an ALG"""
        home = self.lab.directory / "ftp"
        (home / "in").mkdir(parents=True, exist_ok=True)
        write(home / "file", "over passive FTP\n")
        os.chmod(home / "in", 0o777)
        config = write(self.lab.directory / "vsftpd.conf", f"""listen_ipv6=YES
listen=NO
background=NO
anonymous_enable=YES
local_enable=NO
anon_root={home}
anon_upload_enable=YES
write_enable=YES
anon_umask=022
secure_chroot_dir={self.lab.directory}/ftp-empty
seccomp_sandbox=NO
run_as_launching_user=NO
""")
        (self.lab.directory / "ftp-empty").mkdir(exist_ok=True)
        os.chmod(self.lab.directory, 0o711)
        self.far.serve("ftp", "vsftpd", str(config))
        wait_until(lambda: ":21 " in self.far.inside("ss", "-Hltn", capture=True), 10, "FTP server")
        for kind, name, family in self.each():
            code, out, errors = self.client("curl", "-sS", "--max-time", "10", f"-{family}", f"ftp://{name}/file")
            if code != 0 or out != "over passive FTP\n":
                raise LabError(f"{kind}: {out!r} {errors.strip()}")
            code, _, errors = self.client("curl", "-sS", "--max-time", "10", f"-{family}", "-T", str(home / "file"),
                                          f"ftp://{name}/in/{kind}")
            if code != 0 or (home / "in" / kind).read_text() != "over passive FTP\n":
                raise LabError(f"{kind}, upload: {errors.strip()}")

    # ---- marks ----

    def ecn_end_to_end(self):
        """every ECN and DSCP bit arrives and returns: ECT is kept, CE survives"""
        for kind, name, family in self.each():
            for mark in (0x00, 0x01, 0x02, 0x03, 0xB8, 0xBB):
                answer = self.ask("mark", name, family, mark)
                if answer != {"arrived": mark, "returned": mark}:
                    raise LabError(f"{kind}, {mark:#04x}: {answer}")

    # ---- what the site decides ----

    def the_site_decides_how_clients_appear(self):
        """source_nat and mapping of the portal's site, changed while all runs: the servers see it"""
        lan, portal = self.lab.network.namespace("lan"), self.lab.penstock.config_file("portal")
        before = portal.read_text()
        for family, prefix, gateway in ((4, "100.64.0.0/11", net.LAN_GW4), (6, "fd00:2021:1111::/107", net.LAN_GW6)):
            net.run("ip", "-n", lan, f"-{family}", "route", "add", prefix, "via", gateway)

        def site(**settings):
            document = json.loads(before)
            document["sites"] = [{"id": "hq", **settings}]
            portal.write_text(json.dumps(document))
            self.lab.processes.send("portal", signal.SIGHUP)

        def seen(port):
            return {kind: self.ask("who", name, family, port) for kind, name, family in self.each()}

        def shows(key, value):
            return lambda: any(line["key"] == key and line["value"].startswith(value)
                               for line in self.lab.penstock.ctl("dataplane", "status")["lines"])

        own = {4: self.tunnel_address(4), 6: self.tunnel_address(6)}
        try:
            site(source_nat="off")
            wait_until(shows("source nat", "off"), 10, "the data plane to hear of source_nat")
            for kind, answer in seen(6001).items():
                family = TRANSLATIONS[kind][1]
                wanted = own[family] if kind in ("NAT44", "NAT66") else net.LAN_GW4 if kind == "NAT64" else net.LAN_GW6
                if answer != {"address": wanted, "port": 6001}:
                    raise LabError(f"{kind}, source_nat off: seen as {answer}, want {wanted} port 6001")
            site(mapping="endpoint_independent")
            wait_until(shows("mapping", "endpoint independent"), 10, "the data plane to hear of the mapping")
            for kind, answer in seen(6002).items():
                wanted = net.LAN_GW4 if kind in ("NAT44", "NAT64") else net.LAN_GW6
                if answer["address"] != wanted:
                    raise LabError(f"{kind}, source_nat on again: seen as {answer}, want {wanted}")
        finally:
            portal.write_text(before)
            self.lab.processes.send("portal", signal.SIGHUP)
            wait_until(shows("mapping", "address and port"), 10, "the site to say nothing again")

    def tunnel_address(self, family):
        """Of the client; the resolver's stands on the device too."""
        _, out, _ = self.client("ip", "-j", f"-{family}", "address", "show", "dev", "penstock0", "scope", "global")
        ours = ipaddress.ip_network("100.64.0.0/11" if family == 4 else "fd00:2021:1111::/107")
        return next(info["local"] for info in json.loads(out)[0]["addr_info"]
                    if ipaddress.ip_address(info["local"]) in ours)

    # ---- choosing a family ----

    def happy_eyeballs_cost_nothing(self):
        """curl without -4 or -6 against a server of one family, beside curl told the family: < 50 ms more (median)"""
        def fetch(*arguments):
            code, out, errors = self.client("curl", "-sS", "-o", "/dev/null", "--max-time", "5", "-w", "%{time_total}",
                                            *arguments)
            if code != 0:
                raise LabError(f"curl {arguments}: {errors.strip()}")
            return float(out)

        for host, own in (("web4", "-4"), ("web6", "-6")):
            url = f"http://{host}.corp.example/"
            fetch(url), fetch(own, url)
            extra = [fetch(url) - fetch(own, url) for _ in range(15)]
            median = statistics.median(extra)
            print(f"  {host}: {1000 * median:+.1f} ms (from {1000 * min(extra):+.1f} to {1000 * max(extra):+.1f})")
            if median >= 0.05:
                raise LabError(f"{host}: {1000 * median:.1f} ms more than with {own}")


TESTS = ("traceroute_udp_shows_the_true_hops", "traceroute_icmp_shows_the_true_hops",
         "traceroute_tcp_shows_the_true_hops", "tracepath_shows_hops_and_mtu", "ping_4000", "fragmented_udp_both_ways",
         "servers_learn_the_path_mtu", "no_black_hole_behind_a_narrow_hop", "tcp_options_survive", "tcp_endings",
         "ftp_passive", "ecn_end_to_end", "the_site_decides_how_clients_appear", "happy_eyeballs_cost_nothing")


def report(name, action):
    started = time.monotonic()
    try:
        action()
    except (LabError, subprocess.TimeoutExpired, OSError, ValueError) as error:
        print(f"FAIL {name}: {' | '.join(str(error).splitlines())}", flush=True)
        return False
    print(f"PASS {name}  ({time.monotonic() - started:.1f} s)", flush=True)
    return True


def main(instance="natproof", driver="af_xdp", inner=1280, kind=Tests, names=TESTS):
    wanted = [name for name in names if not sys.argv[1:] or any(word in name for word in sys.argv[1:])]
    lab = Lab.anew(instance)
    far = FarNetwork(lab)
    tests = kind(lab, far, inner)
    good = True

    def up():
        lab.up(build=BUILD, processes=(), driver=driver, options={"mtu": inner})
        far.up()
        far.start()
        (lab.directory / "peer").mkdir()
        far.serve("peer", "/usr/bin/python3", str(PEER), "serve", str(lab.directory / "peer"))
        wait_until(lambda: ":7005 " in far.inside("ss", "-Hlun", capture=True), 10, "the peer")
        wait_until(lambda: tests.client("ping", "-4", "-c1", "-W1", f"four.{DOMAIN}")[0] == 0, 20, "the tunnel")

    try:
        good = report(f"lab up: translation, {driver}, MTU {inner}", up)
        for name in wanted if good else ():
            good &= report(name, getattr(tests, name))
    finally:
        if not good and lab.settings:
            lab.save_logs()
            for process in ("dataplane", "gateway", "client", "peer", "ftp"):
                print(f"--- {process}\n{lab.processes.tail(process, 15)}")
            with contextlib.suppress(LabError):
                print(lab.penstock.ctl("dataplane", "show", "drops", as_json=False))
        with contextlib.suppress(LabError):
            lab.down()
        far.down()
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
