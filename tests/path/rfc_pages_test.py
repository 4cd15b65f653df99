#!/usr/bin/python3
"""Whether docs/rfc tells the truth: every test it names exists, every "yes" names one, every "no" says why.

Also that every trap of translation (nat-1 to nat-26) is named by a test's comment.
Usage: rfc_pages_test.py SOURCE_ROOT.
"""
import fnmatch
import pathlib
import re
import sys

ROOT = pathlib.Path(sys.argv[1])
PAGES = {"7915", "6146", "4787", "5382", "5508", "7857", "6888", "6791"}
NAT_TRAPS = 26
failed = 0


def verdict(name, problems):
    global failed
    failed += bool(problems)
    print(f"FAIL {name}: " + "; ".join(problems) if problems else f"PASS {name}")


def text(path):
    return path.read_text(encoding="utf-8")


def known_tests():
    names = set()
    for path in (ROOT / "tests/path/cases").glob("*.txt"):
        names |= set(re.findall(r"^case (\S+)", text(path), re.M))
    for path in (ROOT / "tests").rglob("*.cc"):
        for suite, test in re.findall(r"\b(?:TEST|TEST_F|TEST_P)\((\w+),\s*(\w+)\)", text(path)):
            names.add(f"{suite}.{test}")
    for path in [ROOT / "tests/path/run_test.py", *(ROOT / "tests/lab").glob("*_test.py")]:
        names |= set(re.findall(r'f?"([^"\n{]+)', text(path)))
    return names


def check_page(path, names):
    problems = []
    rows = [line for line in text(path).splitlines() if line.startswith("|")][2:]
    for row in rows:
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        if len(cells) != 4:
            problems.append(f"row with {len(cells)} cells: {row[:40]}")
            continue
        label = f"{cells[0]} {cells[2][:30]}"
        answer = re.match(r"(yes|no|partly|n/a)\b", cells[3])
        if not answer:
            problems.append(f"{label}: neither yes, partly, no nor n/a")
            continue
        # Not tests: options, commands, files, settings, drop reasons.
        other = re.compile(r"^--|^penstockctl|^(?!RFC).*/|^inner_mtu$|^nat_|^nat\.|: ")
        named = [name for name in re.findall(r"`([^`]+)`", cells[3]) if not other.search(name)]
        missing = [name for name in named if not fnmatch.filter(names, name)]
        problems += [f"{label}: no test {name}" for name in missing]
        words = len(re.sub(r"`[^`]*`", "", cells[3]).split())
        reference = re.search(r"\]\(\d+\.md\)|see \d|there are none|nothing is", cells[3])
        if answer[1] == "yes" and not named and not reference:
            problems.append(f"{label}: yes without a test")
        if answer[1] in ("no", "partly", "n/a") and words < 3:
            problems.append(f"{label}: {answer[1]} without a reason")
    if len(rows) < 4:
        problems.append("hardly a row")
    return problems


def main():
    names = known_tests()
    pages = {path.stem: path for path in (ROOT / "docs/rfc").glob("[0-9]*.md")}
    verdict("a page for every RFC", sorted(PAGES - pages.keys()))
    for number in sorted(pages):
        verdict(f"docs/rfc/{number}.md", check_page(pages[number], names))
    sources = [*(ROOT / "tests").rglob("*.cc"), *(ROOT / "tests").rglob("*.txt"), *(ROOT / "tests").rglob("*.py")]
    traps = set()
    for path in sources:
        for line in re.findall(r"trap: (.*)", text(path)):
            traps |= set(re.findall(r"nat-\d+", line))
    verdict("every nat trap has a test", [f"nat-{n}" for n in range(1, NAT_TRAPS + 1) if f"nat-{n}" not in traps])
    sys.exit(1 if failed else 0)


main()
