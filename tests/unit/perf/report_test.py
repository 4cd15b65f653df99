#!/usr/bin/python3 -B
"""What perf/run makes of the suites' figures: rows, verdicts, tables, plots."""

import json
import pathlib
import sys
import tempfile
import unittest
import xml.etree.ElementTree as ElementTree

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[3] / "perf"))

from penstock_perf import plots, rows, suites, table  # noqa: E402


def row(suite="pipeline", name="up/64", value=5.0, unit="Mpps", **more):
    return rows.complete(dict(suite=suite, name=name, value=value, unit=unit, **more), "test", suite)


class Rows(unittest.TestCase):
    def test_reads_one_object_per_line_and_completes_it(self):
        with tempfile.TemporaryDirectory() as directory:
            file = pathlib.Path(directory) / "rows"
            file.write_text(json.dumps(dict(suite="micro", name="aead/64", value=2, unit="Mpps", peer="OpenSSL",
                                            peer_value=0.5)) + "\n\n")
            (read,) = rows.read(file, "micro")
        self.assertEqual(read["ratio"], 4)
        self.assertIsNone(read["limit"])

    def test_reads_a_list_too(self):
        with tempfile.TemporaryDirectory() as directory:
            file = pathlib.Path(directory) / "rows"
            file.write_text(json.dumps([dict(suite="micro", name=name, value=2, unit="us", peer="") for name in "ab"]))
            self.assertEqual([row["name"] for row in rows.read(file, "micro")], ["a", "b"])
            file.write_text("[{}")
            self.assertRaises(rows.BadRow, rows.read, file, "micro")

    def test_a_ratio_says_how_many_times_better(self):
        self.assertEqual(row(value=2.0, unit="us", peer="x", peer_value=6.0, better="less")["ratio"], 3)

    def test_refuses_what_is_wrong(self):
        for wrong in (dict(value="5"), dict(suite="other"), dict(unit=None), dict(name=""), dict(ratoi=3)):
            given = dict(suite="micro", name="a", value=1, unit="us") | wrong
            with self.subTest(wrong), self.assertRaises(rows.BadRow):
                rows.complete(given, "test", "micro")

    def test_verdicts(self):
        for expected, reference, more in (
                ("", True, {}),
                ("met", True, dict(goal=5.0)),
                ("missed", True, dict(goal=5.1, floor=4)),
                ("below floor", True, dict(goal=7, floor=5.5)),
                ("", False, dict(goal=7, floor=5.5, reference_only=True)),
                ("below floor", False, dict(goal=7, floor=5.5)),
                ("met", True, dict(goal=5, better="less")),
                ("below floor", True, dict(floor=4, better="less")),
                ("missed", True, dict(peer="x", peer_value=1, goal_ratio=6)),
                ("met", False, dict(peer="x", peer_value=1, goal_ratio=5, goal=9, reference_only=True)),
                ("missed", True, dict(limit=10, goal_share=0.6)),
                ("met", True, dict(limit=10, goal_share=0.5))):
            with self.subTest(more):
                self.assertEqual(rows.verdict(row(name="figure", **more), reference), expected)


class Goals(unittest.TestCase):
    def test_a_row_without_a_goal_gets_the_one_there_is(self):
        self.assertEqual(row(name="up/64")["goal"], 7)
        self.assertEqual(row(name="up/64", goal=1)["goal"], 1)
        self.assertIsNone(row(name="up/64", unit="Gbit/s")["goal"])
        self.assertEqual(rows.verdict(row(name="up/64/rest", unit="cycles", value=300), False), "missed")
        self.assertEqual(rows.verdict(row(name="up/64", value=3, limit=10), False), "met")
        self.assertEqual(rows.verdict(row(name="up/64", value=3, limit=10), True), "below floor")


class Shown(unittest.TestCase):
    def test_a_table_has_limit_peer_goal_and_notes_side_by_side(self):
        text = table.render("pipeline", [row(limit=10, peer="wireguard-go", peer_value=0.05, goal_ratio=70, goal=7,
                                             reference_only=True, spread=[4.5, 5.5], note="why")], rows.verdict, False)
        for part in ("5.00", "4.50 – 5.50", "50 %", "wireguard-go", "100 ×", "≥ 7.00 (AVX-512)", "≥ 70.0 ×", "met",
                     "up/64: why"):
            self.assertIn(part, text)

    def test_the_same_table_for_a_page(self):
        text = table.markdown("pipeline", [row(limit=10, spread=[4.5, 5.5], note="why")], rows.verdict, False)
        self.assertIn("| up/64 | 5.00 | Mpps | 4.50 – 5.50 | 10.0 | 50 % |", text)
        self.assertIn("- `up/64`: why", text)

    def test_results_have_every_common_key_and_no_blanks(self):
        kept = rows.without_blanks(row())
        self.assertLessEqual(set(rows.COMMON), set(kept))
        self.assertNotIn("note", kept)

    def test_numbers_keep_three_figures(self):
        for value, text in ((0, "0"), (0.01234, "0.0123"), (1.234, "1.23"), (12.34, "12.3"), (123.4, "123"),
                            (1234567, "1 234 567"), (None, "")):
            self.assertEqual(table.number(value), text)

    def test_plots_are_drawn_and_well_formed(self):
        data = [row(name=f"{way}/{size}", value=value, unit=unit, limit=value * 2, spread=[value * .9, value], stages={
            "decap": 100, "route": 20}) for way in ("up", "down") for unit in ("Mpps", "Gbit/s")
            for size, value in (("64", 4.0), ("imix", 3), ("1420", 1))]
        data += [row(name=f"up/imix/stage/{stage}", value=50, unit="cycles") for stage in ("decap", "route")]
        data += [row("scale", f"{what}/{count}", 3 - count / 1e7) for what in ("peers", "flows")
                 for count in (16, 1000000)]
        data += [row("latency", "up", 8, "us", better="less", distribution=[[5, 0.1], [8, 0.5], [40, 0.99], [900, 1]])]
        data += [row("compare", "up/64", 4, peer="wireguard-go <&>", peer_value=0.05)]
        with tempfile.TemporaryDirectory() as directory:
            written = plots.draw(data, pathlib.Path(directory), "machine")
            self.assertEqual(set(written), {"throughput-gbit.svg", "throughput-mpps.svg", "peers-mpps.svg", "peers.svg",
                                            "flows.svg", "latency.svg", "stages.svg"})
            for name in written:
                root = ElementTree.parse(pathlib.Path(directory) / name).getroot()
                self.assertTrue(root.tag.endswith("svg"))
                self.assertGreater(len(root), 10)


class Suites(unittest.TestCase):
    def test_a_missing_program_is_a_failure_that_names_it(self):
        with self.assertRaisesRegex(suites.SuiteFailure, "perf-micro"):
            suites.program("micro", pathlib.Path("/nonexistent"))

    def run_script(self, script, quick=True):
        with tempfile.TemporaryDirectory() as directory:
            program = pathlib.Path(directory) / "perf" / "micro" / "perf-micro"
            program.parent.mkdir(parents=True)
            program.write_text("#!/bin/sh\n" + script)
            program.chmod(0o755)
            return suites.run("micro", pathlib.Path(directory), quick)

    def test_a_suite_is_called_and_its_rows_read(self):
        line = json.dumps(dict(suite="micro", name="a", value=1, unit="us"))
        (found,) = self.run_script(f"test $# = 3 -a $1 = --quick -a $2 = --json && echo '{line}' > $3")
        self.assertEqual(found["name"], "a")

    def test_a_suite_that_fails_says_why_and_keeps_what_it_has(self):
        line = json.dumps(dict(suite="micro", name="a", value=1, unit="us"))
        with self.assertRaisesRegex(suites.SuiteFailure, "no hugepages") as caught:
            self.run_script(f"echo '{line}' > $3; echo no hugepages >&2; exit 3")
        self.assertEqual(len(caught.exception.args[1]), 1)

    def test_a_suite_that_measures_nothing_fails(self):
        with self.assertRaisesRegex(suites.SuiteFailure, "nothing"):
            self.run_script("exit 0")


if __name__ == "__main__":
    unittest.main()
