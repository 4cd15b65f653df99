#!/usr/bin/python3
"""All four translations with more than the least MTU inside the tunnel, over DPDK's af_packet: large datagrams in
pieces, and narrow wires in the LAN and on the WAN.

The kernels on both sides judge: what they were told about the way, and that nothing stalls.
"""

import re
import sys

from translation_test import Tests, main
from penstock_lab.process import wait_until
from penstock_lab.topology import LabError

INNER = 1420
OUTER = INNER + 20 + 8 + 16 + 16
WAN = (("inet", "to-gnat"), ("gnat", "wan"))


class WideTests(Tests):
    def wires(self, lan, wan):
        self.far.mtu(lan)
        for host, interface in WAN:
            self.lab.network.ip(host, "link", "set", interface, "mtu", str(wan))

    def forget(self):
        """What the kernels have learned of the way so far."""
        for flush in ((self.far.inside, ()), (self.client, ())):
            for family in ("-4", "-6"):
                flush[0]("ip", family, "route", "flush", "cache")

    def bulk_through(self, lan, wan):
        """300 kB each way over each translation, at once as well as after the way is known."""
        self.wires(lan, wan)
        try:
            for kind, name, family in self.each():
                self.forget()
                for size in (300_000, 30_000):
                    if not self.ask("echo", name, family, size)["same"]:
                        raise LabError(f"{kind}, LAN {lan}, WAN {wan}: bytes differ")
                for size in (1373, 4000):
                    answer = self.ask("datagram", name, family, size)
                    if answer != {"same": True, "bytes": size}:
                        raise LabError(f"{kind}, LAN {lan}, WAN {wan}, a datagram of {size} bytes: {answer}")
        finally:
            self.wires(1500, 1500)

    def narrow_wire_in_the_lan(self):
        self.bulk_through(1400, 1500)

    def narrowest_wire_on_the_wan(self):
        """what the tunnel's datagrams fit exactly: 1420 and 20, 8, 16, 16 around it"""
        self.bulk_through(1500, OUTER)

    def narrow_wires_on_both(self):
        self.bulk_through(1350, OUTER)

    def narrowest_wire_in_the_lan(self):
        self.bulk_through(1280, 1500)

    def paths(self):
        lines = self.lab.penstock.ctl("client", "status")["lines"]
        return [line["value"] for line in lines if line["key"].startswith(("path of", "switch of"))]

    def proved(self):
        """What the client has found every path in use to carry; 0: not known yet."""
        used = [path for path in self.paths() if re.search("primary|standby", path)]
        found = [re.search(r", (\d+) bytes$", value) for value in used]
        return min(int(match[1]) if match else 0 for match in found) if found else 0

    def tunnel_narrower_than_its_mtu(self):
        """A wire between client and gateway that does not carry the configured inner MTU. That its router says so goes
        to sockets that do not look; what is lost is found out, and both sides' senders are told. (Before the LAN is
        narrower still: the gateway remembers that of each destination for ten minutes.)"""
        kind, name, family = self.each()[0]
        self.ask("echo", name, family, 1000)
        wait_until(lambda: self.proved() == INNER, 30, f"{INNER} bytes to be proved")
        for wan in (1400, 1370):
            self.wires(1500, wan)
            try:
                fits = (wan - 20 - 8 - 32) // 16 * 16

                def found():
                    self.client("ping", f"-{family}", "-n", "-c", "1", "-W", "1", name)  # the tunnel is in use
                    return self.proved() == fits
                wait_until(found, 30, f"{fits} bytes to be found on a wire of {wan}")
                for kind, name, family in self.each():
                    self.forget()
                    if not self.ask("echo", name, family, 300_000)["same"]:
                        raise LabError(f"{kind}, WAN {wan}: bytes differ")
                    for size in (1373, 4000):
                        answer = self.ask("datagram", name, family, size)
                        if answer != {"same": True, "bytes": size}:
                            raise LabError(f"{kind}, WAN {wan}, a datagram of {size} bytes: {answer}")
                    _, out, errors = self.client("tracepath", f"-{family}", "-n", "-m", "5", name)
                    if "reached" not in out or f"pmtu {fits} " not in out.replace("\n", " "):
                        raise LabError(f"{kind}, WAN {wan}, want pmtu {fits}: {out} {errors} {self.paths()}")
                    self.forget()
                    # as payload; short enough for the configured MTU
                    too_long = fits + 16 - (28 if family == 4 else 48)
                    seen = self.ask("long", name, family, too_long)["seen"]
                    wanted = fits + {"NAT44": 0, "NAT64": -20, "NAT46": 20, "NAT66": 0}[kind]
                    if not seen or seen[-1] is None or seen[-1] != [wanted, 2]:
                        raise LabError(f"{kind}, WAN {wan}: the server was told {seen}, want MTU {wanted}")
            finally:
                self.wires(1500, 1500)

    def clients_learn_the_path_mtu(self):
        """tracepath with a wire of 1400 bytes behind the gateway: the client's kernel is told the right MTU"""
        wanted = {"NAT44": 1400, "NAT64": 1420, "NAT46": 1380, "NAT66": 1400}
        self.wires(1400, 1500)
        try:
            for kind, name, family in self.each():
                self.forget()
                _, out, errors = self.client("tracepath", f"-{family}", "-n", "-m", "5", name)
                if "reached" not in out or f"pmtu {wanted[kind]}" not in out.splitlines()[-1] + out:
                    raise LabError(f"{kind}, want pmtu {wanted[kind]}: {out} {errors}")
                resume = [line for line in out.splitlines() if "Resume" in line]
                if not resume or f"pmtu {wanted[kind]} " not in resume[0] + " ":
                    raise LabError(f"{kind}, want pmtu {wanted[kind]} in the end: {out}")
        finally:
            self.wires(1500, 1500)


TESTS = ("ping_4000", "fragmented_udp_both_ways", "tracepath_shows_hops_and_mtu", "servers_learn_the_path_mtu",
         "clients_learn_the_path_mtu", "tunnel_narrower_than_its_mtu", "narrow_wire_in_the_lan",
         "narrowest_wire_on_the_wan", "narrow_wires_on_both", "narrowest_wire_in_the_lan", "tcp_options_survive")


if __name__ == "__main__":
    sys.exit(main("natmtu", "af_packet", INNER, WideTests, TESTS))
