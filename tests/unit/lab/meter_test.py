#!/usr/bin/python3 -B
"""What the lab's meter makes of when packets were sent and when they arrived."""

import pathlib
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "lab"))

from penstock_lab.meter import Flow  # noqa: E402

MS = 0.001


def flow(sent, arrived):
    """Times in milliseconds."""
    return Flow("up", {n: at * MS for n, at in sent.items()}, {n: at * MS for n, at in arrived.items()}, 0, 0)


def steady(count, takes=2, every=1):
    return {n: n * every for n in range(count)}, {n: n * every + takes for n in range(count)}


class Stalls(unittest.TestCase):
    def stall(self, sent, arrived):
        return round(flow(sent, arrived).window(0, 1000).stall / MS)

    def test_of_a_steady_flow_is_the_time_that_a_packet_takes(self):
        self.assertEqual(self.stall(*steady(100)), 2)
        self.assertEqual(self.stall(*steady(10, every=100)), 2)

    def test_counts_from_the_last_arrival_to_the_next(self):
        sent, arrived = steady(100)
        for n in range(20, 70):
            del arrived[n]
        # 19 came at 21, 70 at 72; 20 was expected all the time.
        self.assertEqual(self.stall(sent, arrived), 51)
        self.assertEqual(len(flow(sent, arrived).window(0, 1000).lost), 50)

    def test_counts_what_comes_late(self):
        sent, arrived = steady(100)
        for n in range(20, 70):
            arrived[n] = 80
        self.assertEqual(self.stall(sent, arrived), 60)

    def test_counts_to_the_last_sending_when_nothing_comes_any_more(self):
        sent, arrived = steady(100)
        for n in range(40, 100):
            del arrived[n]
        self.assertEqual(self.stall(sent, arrived), 99 - 41)
        self.assertEqual(self.stall(sent, {}), 99)

    def test_does_not_count_what_was_not_sent(self):
        sent = {**{n: n for n in range(20)}, **{n: n + 70 for n in range(20, 40)}}
        arrived = {n: at + 2 for n, at in sent.items()}
        self.assertEqual(self.stall(sent, arrived), 2)
        self.assertEqual(round(flow(sent, arrived).machine_gap(0, 1) / MS), 71)

    def test_counts_what_was_under_way_when_the_sender_stood_still(self):
        sent = {**{n: n for n in range(20)}, **{n: n + 70 for n in range(20, 40)}}
        arrived = {n: at + 2 for n, at in sent.items()}
        arrived[19] = 92
        self.assertEqual(self.stall(sent, arrived), 73)
        del arrived[19]
        self.assertEqual(self.stall(sent, arrived), 72)

    def test_is_not_less_for_a_packet_that_overtakes(self):
        sent, arrived = steady(100)
        for n in range(20, 50):
            arrived[n] = 75 + n / 100
        arrived[45] = 48
        self.assertEqual(self.stall(sent, arrived), 55)


if __name__ == "__main__":
    unittest.main()
