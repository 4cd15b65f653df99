#!/usr/bin/python3
"""All four translations with more than the least MTU inside the tunnel, over DPDK's af_packet: large datagrams in pieces,
and narrow wires in the LAN and on the WAN.

The kernels on both sides judge: what they were told about the way, and that nothing stalls.
"""

import sys

from translation_test import Tests, main
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
         "clients_learn_the_path_mtu", "narrow_wire_in_the_lan", "narrowest_wire_on_the_wan", "narrow_wires_on_both",
         "narrowest_wire_in_the_lan", "tcp_options_survive")

if __name__ == "__main__":
    sys.exit(main("natmtu", "af_packet", INNER, WideTests, TESTS))
