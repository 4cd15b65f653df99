#!/usr/bin/python3
"""tests/path/run itself: what it accepts, what it tells apart, and how it says so.

Usage: run_test.py RUNNER SOURCE_ROOT. Packets are made here, byte by byte, so that nothing of the code under test has
a say in what is right.
"""
import os
import re
import struct
import subprocess
import sys
import tempfile

from packets import checksum, error4, fragment, ip4, ip6, packed, pcap, pcapng, udp

RUNNER, ROOT = sys.argv[1:3]
A4, B4 = "198.51.100.2", "192.0.2.33"
A6, B6 = "2001:db8::8", "2001:db8::9"
PAIRS = ["--map", f"{A4}={A6}", "--map", f"{B6}={B4}"]


class Cases:
    def __init__(self, directory):
        self.directory, self.count, self.failed = directory, 0, 0

    def file(self, content):
        if isinstance(content, str):
            return content
        self.count += 1
        path = os.path.join(self.directory, f"p{self.count}")
        with open(path, "wb") as out:
            out.write(content)
        return path

    def run(self, name, options, sends, expects, code, says=""):
        command = [RUNNER, *options]
        for content in sends:
            command += ["--send", self.file(content)]
        for content in expects:
            command += ["--expect", self.file(content)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        output = done.stdout + done.stderr
        good = done.returncode == code and re.search(says, output)
        print(f"PASS {name}" if good else f"FAIL {name}: exit {done.returncode}, wanted {code} and {says!r}\n{output}")
        self.failed += not good


def martians(run):
    """What no router passes on (RFC 1812 §5.3.7), as tayga's suite and others have it."""
    options = ["--map", f"{A4}={A6}", "--map", "2001:db8:64::/96"]
    for address in ("0.0.0.0", "0.255.255.255", "127.0.0.1", "127.255.255.255", "169.254.0.1", "169.254.169.254",
                    "224.0.0.1", "239.255.255.255", "255.255.255.255"):
        embedded = f"2001:db8:64::{address}"
        for name, packet in (("IPv4 source", ip4(address, A4, udp(address, A4))),
                             ("IPv4 destination", ip4(A4, address, udp(A4, address))),
                             ("IPv6 source", ip6(embedded, A6, udp(embedded, A6), hop=64)),
                             ("IPv6 destination", ip6(A6, embedded, udp(A6, embedded), hop=64))):
            run(f"{address} as {name}", options, [packet], ["silence"], 0, "RFC (1812|7915|3927)")
        about = ip4(A4, address, udp(A4, address))
        run(f"{address} in an error", options, [error4(B4, A4, 3, 1, about)], ["silence"], 0, "RFC (1812|7915)")
    about = ip4(A4, B4, udp(A4, B4))
    far, inside = "2001:db8:64::127.0.0.1", ip6(A6, f"2001:db8:64::{B4}", udp(A6, f"2001:db8:64::{B4}"), hop=64)
    message = struct.pack("!BBHI", 1, 0, 0, 0) + inside
    pseudo = packed(far) + packed(A6) + struct.pack("!II", len(message), 58)
    message = message[:2] + struct.pack("!H", checksum(pseudo + message)) + message[4:]
    run("illegal source kept in an error", options, [error4("127.0.0.1", A4, 3, 1, about)],
        [ip6(far, A6, message, 58)], 0)
    run("discarded echo is answered in IPv4", ["--map", f"{A4}={A6}", "--map", "64:ff9b::/96", "--strict-wkp"],
        [ip4(A4, "10.0.0.1", b"\x08\0" + struct.pack("!HHH", checksum(b"\x08\0\0\0\0\1\0\2"), 1, 2), 1)], ["drop"],
        0, "ICMP type 3 code 13")
    for address in ("fe80::1", "ff02::1", "::1"):
        run(f"{address} as source", PAIRS, [ip6(address, A6, udp(address, A6), hop=64)], ["silence"], 0, "RFC")
    linked = ["--map", "169.254.1.0/24=2001:db8:a::/120", "--map", "2001:db8:64::/96"]
    run("link-local, but mapped on purpose", linked, [ip4("169.254.1.9", B4, udp("169.254.1.9", B4))],
        [ip6("2001:db8:a::9", f"2001:db8:64::{B4}", udp("2001:db8:a::9", f"2001:db8:64::{B4}"))], 0)
    far = "2001:db8:64::240.0.0.1"
    class_e = ip4("240.0.0.1", A4, udp("240.0.0.1", A4))
    run("class E", options, [class_e], [ip6(far, A6, udp(far, A6))], 0)
    run("class E, expected to be dropped", options, [class_e], ["drop"], 1, "RFC 1812 §5.3.7")


def main(cases):
    in4 = ip4(A4, B4, udp(A4, B4), tos=0xB9)
    out6 = ip6(A6, B6, udp(A6, B6), tc=0xB9)
    run = cases.run
    run("pair, 4 to 6", PAIRS, [in4], [out6], 0)
    run("pair, 6 to 4; the identification is the translator's", PAIRS, [ip6(B6, A6, udp(B6, A6), hop=64, flow=5)],
        [ip4(B4, A4, udp(B4, A4), ttl=63, flags=0, identification=999)], 0, "identification is the translator's own")
    run("several in order", PAIRS, [in4, in4], [out6, out6], 0)
    run("one is missing", PAIRS, [in4], [out6, out6], 1, "nothing came out")
    run("one too many", PAIRS, [in4, in4], [out6], 1, "was not expected")

    # All lengths of RFC 6052 §2.4, table 2
    for text, length, embedded in [("2001:db8::", 32, "2001:db8:c000:221::"),
                                   ("2001:db8:100::", 40, "2001:db8:1c0:2:21::"),
                                   ("2001:db8:122::", 48, "2001:db8:122:c000:2:2100::"),
                                   ("2001:db8:122:300::", 56, "2001:db8:122:3c0:0:221::"),
                                   ("2001:db8:122:344::", 64, "2001:db8:122:344:c0:2:2100::"),
                                   ("2001:db8:122:344::", 96, "2001:db8:122:344::192.0.2.33")]:
        options = ["--map", f"{A4}={A6}", "--map", f"{text}/{length}"]
        run(f"RFC 6052 /{length}, 4 to 6", options, [ip4(A4, B4, udp(A4, B4))],
            [ip6(A6, embedded, udp(A6, embedded))], 0)
        run(f"RFC 6052 /{length}, 6 to 4", options, [ip6(A6, embedded, udp(A6, embedded), hop=64)],
            [ip4(A4, B4, udp(A4, B4), ttl=63, flags=0)], 0)
    run("prefix with host bits", ["--map", f"{A4}={A6}", "--map", "2001:db8:100:99::/40"], [ip4(A4, B4, udp(A4, B4))],
        [ip6(A6, "2001:db8:1c0:2:21::", udp(A6, "2001:db8:1c0:2:21::"))], 0)
    run("prefix pair of RFC 7757",
        ["--map", "198.51.100.0/24=2001:db8:a::/120", "--map", "2001:db8:b::/120=192.0.2.0/24"], [in4],
        [ip6("2001:db8:a::2", "2001:db8:b::21", udp("2001:db8:a::2", "2001:db8:b::21"), tc=0xB9)], 0)
    run("hairpin of RFC 7757", ["--map", f"{A4}={A6}", "--map", f"{B4}={B6}", "--map", "2001:db8:64::/96"],
        [ip6(A6, "2001:db8:64::192.0.2.33", udp(A6, "2001:db8:64::192.0.2.33"), hop=64)],
        [ip6("2001:db8:64::198.51.100.2", B6, udp("2001:db8:64::198.51.100.2", B6))], 0)

    def changed(**other):
        return ip6(A6, B6, udp(A6, B6), **{"tc": 0xB9, **other})

    wrong = [
        ("ttl", changed(hop=62), "ip6 ttl: expected 62, got 63\n +RFC 7915 §4.1", "hop-limit"),
        ("class", changed(tc=0xB8), "ip6 ecn: expected 0, got 1\n +RFC 7915 §4.1, RFC 3168", "tc"),
        ("flow label", changed(flow=9), "flow-label: expected 9.*\n.*RFC 7915", "flow_label"),
        ("payload", ip6(A6, B6, udp(A6, B6, b"abce"), tc=0xB9), "payload: expected 61626365, got 61626364", "51"),
        ("port", ip6(A6, B6, udp(A6, B6, ports=(1, 53)), tc=0xB9), "port: expected 1, got 4000", "udp.sport"),
        ("checksum", ip6(A6, B6, udp(A6, B6, error=5), tc=0xB9), "checksum: expected wrong by .*got right", "csum"),
        ("address", ip6(A6, A6, udp(A6, A6), tc=0xB9), "destination: expected .*\n.*RFC 6052", "outer.dst"),
    ]
    for name, expected, says, ignore in wrong:
        run(f"{name} differs", PAIRS, [in4], [expected], 1, says)
        run(f"{name} is ignored", PAIRS + ["--ignore", ignore], [in4], [expected], 0)
    run("a wrong checksum stays wrong", PAIRS, [ip4(A4, B4, udp(A4, B4, error=1))],
        [ip6(A6, B6, udp(A6, B6, error=1))], 0)

    # Fragments one by one, the last one alone and not a multiple of eight before more (forwarded as it came)
    whole4, whole6 = udp(A4, B4, bytes(range(40))), udp(A6, B6, bytes(range(40)))
    run("fragments one by one", PAIRS,
        [ip4(A4, B4, whole4[24:], flags=0x0003), ip4(A4, B4, whole4[:24], flags=0x2000),
         ip4(A4, B4, b"12345", flags=0x2009)],
        [ip6(A6, B6, fragment(whole6[24:], 24, 0), 44), ip6(A6, B6, fragment(whole6[:24], 0, 1), 44),
         ip6(A6, B6, fragment(b"12345", 72, 1), 44)], 0)
    run("fragments back", PAIRS,
        [ip6(B6, A6, fragment(udp(B6, A6, bytes(range(40)))[:24], 0, 1, 0x12345678), 44, hop=64)],
        [ip4(B4, A4, udp(B4, A4, bytes(range(40)))[:24], ttl=63, flags=0x2000, identification=0x5678)], 0)

    # What the sender is told
    def told(inside, kind, code, rest=0):
        message = struct.pack("!BBHI", kind, code, 0, rest) + inside[:548]
        message = message[:2] + struct.pack("!H", checksum(message)) + message[4:]
        return ip4("192.0.2.1", A4, message, 1, flags=0, tos=0xC0)

    late = ip4(A4, B4, udp(A4, B4), ttl=1)
    run("TTL used up", PAIRS, [late], [told(late, 11, 0)], 0, "own choice")
    run("TTL used up, dropped", PAIRS, [late], ["drop"], 0, "sender is told")
    run("TTL used up, not in silence", PAIRS, [late], ["silence"], 1, "RFC 7915")
    run("own address given and wrong", PAIRS + ["--own4", "192.0.2.9"], [late], [told(late, 11, 0)], 1, "ip4 source")
    big = ip4(A4, B4, udp(A4, B4, bytes(1400)))
    run("DF and too long", PAIRS + ["--mtu6", "1400"], [big], [told(big, 3, 4, 1380)], 0)
    run("wrong MTU", PAIRS + ["--mtu6", "1400"], [big], [told(big, 3, 4, 1400)], 1,
        "icmp mtu: expected 1400, got 1380\n.*RFC")
    whole = udp(A6, B6, bytes(1300))
    cut = [ip6(A6, B6, fragment(whole[:1232], 0, 1), 44), ip6(A6, B6, fragment(whole[1232:], 1232, 0), 44)]
    run("without DF cut to 1280", PAIRS, [ip4(A4, B4, udp(A4, B4, bytes(1300)), flags=0)], cut, 0)
    run("without DF cut to what is said", PAIRS + ["--lowest-mtu6", "1300"],
        [ip4(A4, B4, udp(A4, B4, bytes(1300)), flags=0)], cut, 1, "--lowest-mtu6")

    behind = fragment(b"\x11\0" + bytes(6) + udp(B6, A6), 0, 0, protocol=60)
    run("extension header behind the fragment header", PAIRS, [ip6(B6, A6, behind, 44, hop=64)], ["drop"], 0,
        "RFC 7915 §5.1.1(.|\n)*sender is told.*ICMP type 1 code 1")
    for number in (0, 43, 44, 60):
        run(f"protocol {number} would be an extension header", PAIRS, [ip4(A4, B4, bytes(16), protocol=number)],
            ["silence"], 0, "RFC 8200")
    long = bytes(i & 0xFF for i in range(20000))
    run("jumbo frame", PAIRS + ["--mtu6", "65000"], [ip4(A4, B4, udp(A4, B4, long))], [ip6(A6, B6, udp(A6, B6, long))],
        0)
    run("the longest packet there is", PAIRS + ["--mtu6", "65535"], [ip4(A4, B4, udp(A4, B4, bytes(65507)))], ["drop"],
        0)
    none = ip4(A4, B4, udp(A4, B4, zero=True))
    run("zero UDP checksum is computed", PAIRS, [none], [ip6(A6, B6, udp(A6, B6))], 0)
    run("zero UDP checksum dropped elsewhere", PAIRS, [none], ["drop"], 1, "zero-udp-checksums")
    run("zero UDP checksum dropped", PAIRS + ["--udp-zero", "drop"], [none], ["drop"], 0, "RFC 7915 §4.5")
    run("no mapping", PAIRS, [ip4(A4, "203.0.113.1", udp(A4, "203.0.113.1"))], ["drop"], 0,
        "RFC 7915 §6(.|\n)*told: .*ICMP type 3 code 0")
    run("no mapping of an IPv6 source", PAIRS, [ip6("2001:db8:99::1", A6, udp("2001:db8:99::1", A6), hop=64)], ["drop"],
        0, "RFC 7915 §6(.|\n)*told: .*ICMP type 1 code 1")
    martians(run)
    run("damaged header", PAIRS, [in4[:9] + b"\0" + in4[10:]], ["silence"], 0, "RFC 1812")

    # Stateful: a port within the pool's, the way back, nothing else comes in
    nat64 = ["--nat64", f"{B4}:2000-2999", "--prefix", "64:ff9b::/96"]
    far6 = "64:ff9b::198.51.100.2"
    up = ip6(A6, far6, udp(A6, far6, ports=(2500, 53)), hop=64)
    up4 = ip4(B4, A4, udp(B4, A4, ports=(2500, 53)), ttl=63, flags=0)
    back, back6 = ip4(A4, B4, udp(A4, B4, ports=(53, 2500))), ip6(far6, A6, udp(far6, A6, ports=(53, 2500)))
    run("NAT64 there and back", nat64, [up, back], [up4, back6], 0)
    run("NAT64 out of the blue", nat64, [back], ["drop"], 0, "RFC 6146")
    # RFC 6146 §3.5: one mapping for all destinations, and anybody may send to it unless the operator says otherwise
    other = ip4("198.51.100.9", B4, udp("198.51.100.9", B4, ports=(9, 2500)))
    other6 = ip6("64:ff9b::198.51.100.9", A6, udp("64:ff9b::198.51.100.9", A6, ports=(9, 2500)))
    run("NAT64 endpoint-independent filtering", nat64, [up, other], [up4, other6], 0)
    run("NAT64 address-dependent filtering", nat64 + ["--filtering", "address_dependent"], [up, other],
        [up4, "drop"], 0)
    run("NAT64 filtering is explained", nat64, [up, other], [up4, "drop"], 1, "--filtering")
    bib = ["--bib", f"udp:{B4}#2600={A6}#99"]
    to_bib = ip4(A4, B4, udp(A4, B4, ports=(53, 2600)))
    run("NAT64 static binding, from outside", nat64 + bib, [to_bib],
        [ip6(far6, A6, udp(far6, A6, ports=(53, 99)))], 0)
    run("NAT64 static binding, from inside", nat64 + bib, [ip6(A6, far6, udp(A6, far6, ports=(99, 53)), hop=64)],
        [ip4(B4, A4, udp(B4, A4, ports=(2600, 53)), ttl=63, flags=0)], 0)
    run("NAT64 static binding outside the pool", nat64 + ["--bib", f"udp:192.0.2.99#2600={A6}#99"], [to_bib], ["drop"],
        2, "not of the pool")
    run("NAT64 malformed binding", nat64 + ["--bib", "udp:192.0.2.33=2001:db8::8"], [to_bib], ["drop"], 2, "--bib")
    pool6 = f"64:ff9b::{B4}"
    run("NAT64 hairpinning", nat64 + bib, [ip6(B6, pool6, udp(B6, pool6, ports=(2700, 2600)), hop=64)],
        [ip6(pool6, A6, udp(pool6, A6, ports=(2700, 99)))], 0)
    refused = struct.pack("!BBHI", 3, 3, 0, 0) + back
    refused = ip4(B4, A4, refused[:2] + struct.pack("!H", checksum(refused)) + refused[4:], 1, tos=0xC0)
    run("NAT64 nobody's port", nat64, [back], [refused], 0)
    syn = struct.pack("!HHIIBBHHH", 80, 2800, 1, 0, 0x50, 2, 1000, 0, 0)
    pseudo = packed(A4) + packed(B4) + struct.pack("!HH", 6, len(syn))
    syn = ip4(A4, B4, syn[:16] + struct.pack("!H", checksum(pseudo + syn)) + syn[18:], 6)
    told_late = struct.pack("!BBHI", 3, 3, 0, 0) + syn
    told_late = ip4(B4, A4, told_late[:2] + struct.pack("!H", checksum(told_late)) + told_late[4:], 1, tos=0xC0)
    run("NAT64 unsolicited SYN waits", nat64, [syn], ["drop"], 0, "RFC 6146 §3.5.2.2")
    run("NAT64 unsolicited SYN is answered in time", nat64, [syn], [told_late], 0)
    run("NAT64 lowest-ipv6-mtu", nat64 + ["--lowest-mtu6", "1400"],
        [up, ip4(A4, B4, udp(A4, B4, bytes(1300), ports=(53, 2500)), flags=0)],
        [up4, ip6(far6, A6, udp(far6, A6, bytes(1300), ports=(53, 2500)))], 0)
    router = "2001:db8:77::1"
    message = struct.pack("!BBHI", 1, 3, 0, 0) + back6
    pseudo = packed(router) + packed(far6) + struct.pack("!II", len(message), 58)
    message = message[:2] + struct.pack("!H", checksum(pseudo + message)) + message[4:]
    there = struct.pack("!BBHI", 3, 1, 0, 0) + ip4(A4, B4, udp(A4, B4, ports=(53, 2500)), ttl=63, flags=0)
    there = ip4(B4, A4, there[:2] + struct.pack("!H", checksum(there)) + there[4:], 1, ttl=63, flags=0)
    run("NAT64 error from a router on the IPv6 side", nat64, [up, back, ip6(router, far6, message, 58, hop=64)],
        [up4, back6, there], 0)
    run("another packet altogether", PAIRS, [in4], [in4], 1, "another packet.*\n.*RFC 7915")
    command = nat64 + ["--send", cases.file(up), "--after", "6min", "--send", cases.file(back)]
    run("NAT64 session is over", command, [], [up4, back6], 1, "flow_none")

    # Files
    ether = b"\2\0\0\0\0\1\2\0\0\0\0\2"
    sll = struct.pack("!HHH8s", 0, 1, 6, b"")
    arp = pcap([b"\0" * 28], 1, ether + b"\x08\6")
    for name, content in [("pcap raw", pcap([in4])), ("pcap big-endian", pcap([in4], endian=">")),
                          ("pcap Ethernet, padded", pcap([in4 + b"\0" * 14], 1, ether + b"\x08\0")),
                          ("pcap VLAN", pcap([in4], 1, ether + b"\x81\0\0\5\x08\0")),
                          ("pcap with ARP before", arp + pcap([in4], 1, ether + b"\x08\0")[24:]),
                          ("pcap SLL", pcap([in4], 113, sll + b"\x08\0")), ("pcap IPV4", pcap([in4], 228)),
                          ("pcapng", pcapng([in4])), ("hexadecimal", in4.hex().encode() + b"\n")]:
        run(name, PAIRS, [content], [out6], 0)
    # Every link type that a suite's captures may have, in either byte order, with both clocks
    six = b"\x86\xdd"
    ppp = struct.pack("!HHH8s", 0, 1, 6, b"")
    links = [("raw, of BSD", 12, b""), ("raw, of OpenBSD", 14, b""), ("raw", 101, b""), ("IPV6", 229, b""),
             ("loopback, little-endian", 0, struct.pack("<I", 30)),
             ("loopback, big-endian", 108, struct.pack(">I", 24)),
             ("Ethernet", 1, ether + six), ("Ethernet in two tags", 1, ether + b"\x88\xa8\0\x64\x81\0\0\5" + six),
             ("Linux cooked", 113, ppp + six), ("Linux cooked, second", 276, six + bytes(18))]
    for name, link, head in links:
        for endian in "<>":
            for nanoseconds in (False, True):
                run(f"link {name}, {endian}{', nanoseconds' if nanoseconds else ''}", PAIRS,
                    [in4], [pcap([out6], link, head, endian, nanoseconds)], 0)
    run("link of another kind", PAIRS, [pcap([in4], 105, b"")], [out6], 2, "link type 105")
    run("pcapng big-endian", PAIRS, [pcapng([in4], ">")], [out6], 0)
    run("pcapng, simple packets", PAIRS, [pcapng([in4, in4], kind=3)], [pcapng([out6, out6], ">", 3)], 0)
    run("pcapng, packets as of old", PAIRS, [pcapng([in4], kind=2)], [out6], 0)
    run("pcapng cut off", PAIRS, [pcapng([in4])[:-3]], [out6], 2, "cut off")

    # What is empty
    nobody = ip4(A4, "203.0.113.1", udp(A4, "203.0.113.1"))
    for name, content in [("file", b""), ("capture", pcap([])), ("pcapng", pcapng([])), ("capture but for ARP", arp)]:
        run(f"empty {name} expected", PAIRS, [nobody, nobody], [content], 0, "dropped, as expected")
        run(f"empty {name} expected, but something comes", PAIRS, [nobody, in4], [content], 1,
            "also gives IPv6(.|\n)*RFC 7915")
        run(f"empty {name} sent", PAIRS, [content], ["drop"], 2, "no IP packet")
    run("empty expectation, the sender may be told", PAIRS, [late], [pcap([])], 0, "sender of p.* is told")
    run("words to the sender need no expectation", PAIRS, [in4, late, in4], [out6, out6], 0, "the sender of p")
    run("words to the sender between, all expected", PAIRS, [late, in4], [told(late, 11, 0), out6], 0)
    run("other words to the sender", PAIRS, [late, in4], [told(late, 11, 1), out6], 1, "code: expected 1, got 0")
    kept = os.path.join(cases.directory, "kept.pcap")
    run("what came out is written", PAIRS + ["--write", kept], [in4, late], [], 0)
    run("and can be expected", PAIRS, [in4, late], [kept], 0, "as expected: .*kept.pcap#2")
    run("where nothing can be written", PAIRS + ["--write", cases.directory], [in4], [], 2, "cannot be written")
    run("empty expectations beside others", PAIRS, [in4, nobody], [pcap([]), out6, b""], 0)

    # One packet too many or too few does not make the others wrong
    def numbered(number):
        return (ip4(A4, B4, udp(A4, B4, ports=(number, 53))), ip6(A6, B6, udp(A6, B6, ports=(number, 53))))

    ins, outs = zip(*(numbered(number) for number in range(100, 108)))
    run("one too many in the middle", PAIRS, list(ins), list(outs[:3] + outs[4:]), 1,
        r"as expected(.|\n)*UDP 103 -> 53, which was not expected\n +RFC 7915(.|\n)*UDP 107")
    run("one missing in the middle", PAIRS, list(ins[:3] + ins[4:]), list(outs), 1,
        r"MISMATCH: expected p\d+ \(.*UDP 103 -> 53\), but nothing came out\n +RFC 7915(.|\n)*as expected.*UDP 107")
    run("one differs in the middle", PAIRS, list(ins), list(outs[:3]) + [changed(hop=61)] + list(outs[4:]), 1,
        r"(as expected.*\n){3}MISMATCH(.|\n)*(as expected.*\n){4}")
    run("another order", PAIRS, list(ins), list(reversed(outs)), 1, "MISMATCH")
    run("another order, in any order", PAIRS + ["--any-order"], list(ins), list(reversed(outs)), 0)
    run("any order, but one is missing", PAIRS + ["--any-order"], list(ins[1:]), list(reversed(outs)), 1,
        "UDP 100 -> 53")
    run("each mismatch has its section", PAIRS, list(ins) + [nobody], list(outs[4:]) + ["drop"], 1,
        r"^(as expected.*\n|dropped.*\n|MISMATCH.*\n( +RFC.*\n)+|    .*\n)+$")

    # RFC 6052 3.1, which suites do not heed
    wkp = ["--map", f"{A4}={A6}", "--map", "64:ff9b::/96"]
    private, public = ip4(A4, "10.0.0.1", udp(A4, "10.0.0.1")), ip4(A4, "8.8.8.8", udp(A4, "8.8.8.8"))
    run("well-known prefix and a private address", wkp, [private],
        [ip6(A6, "64:ff9b::10.0.0.1", udp(A6, "64:ff9b::a00:1"))], 0)
    run("well-known prefix and a private address is explained", wkp, [private], ["drop"], 1, "RFC 6052 §3.1")
    run("well-known prefix, strictly", wkp + ["--strict-wkp"], [private, public],
        ["drop", ip6(A6, "64:ff9b::8.8.8.8", udp(A6, "64:ff9b::808:808"))], 0, "RFC 6052 §3.1")

    # Parts of an embedded address that mean nothing (RFC 6052 2.2): the octet between, and what follows
    for text, length, embedded in [("2001:db8::", 32, "2001:db8:c000:221:ff00::"),
                                   ("2001:db8:122:344::", 64, "2001:db8:122:344:ffc0:2:2100:beef")]:
        run(f"RFC 6052 /{length}, reserved bits are ignored", ["--map", f"{A4}={A6}", "--map", f"{text}/{length}"],
            [ip6(A6, embedded, udp(A6, embedded), hop=64)],
            [ip4(A4, B4, udp(A4, B4), ttl=63, flags=0)], 0)
    run("pcap of two, both ways", PAIRS, [pcap([in4, in4])], [pcapng([out6, out6])], 0)
    run("pcap cut off", PAIRS, [pcap([in4])[:-1]], [out6], 2, "cut off")
    run("no packet file", PAIRS, [b"\0hello"], [out6], 2, "neither")
    for name, options in [("unknown option", ["--nap", "1"]), ("unknown field", ["--ignore", "colour"]),
                          ("prefix of no length", ["--map", "2001:db8::/33"]),
                          ("two of a family", ["--map", "10.0.0.1=10.0.0.2"]),
                          ("pool with pairs", ["--nat64", "192.0.2.1", "--prefix", "64:ff9b::/96"]),
                          ("pool without prefix", ["--nat64", "192.0.2.1"])]:
        run(name, (PAIRS if "without" not in name else []) + options, [in4], [out6], 2, "tests/path/run: ")
    run("no mode", [], [in4], [out6], 2, "--map")

    # Every anchor it prints exists
    def text_of(*path):
        with open(os.path.join(ROOT, *path), encoding="utf-8") as text:
            return text.read()

    foreign = "tests/path/foreign"
    sources = "".join(text_of(foreign, name) for name in os.listdir(os.path.join(ROOT, foreign)))
    anchors = set(re.findall(r"docs/translation\.md#([a-z-]+)", sources))
    headings = {re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-")
                for heading in re.findall(r"^#+ (.*)$", text_of("docs/translation.md"), re.M)}
    missing = sorted(anchors - headings)
    print(f"FAIL anchors: {missing}" if missing or not anchors else "PASS anchors")
    cases.failed += bool(missing)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as where:
        everything = Cases(where)
        main(everything)
        sys.exit(1 if everything.failed else 0)
