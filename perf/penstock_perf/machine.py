"""What a result was measured on and with."""

import pathlib
import platform
import subprocess


def _output(*command):
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def _cpu_field(name):
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""


def is_reference():
    """Whether goals set for a core with AVX-512 and IFMA can be judged here."""
    return {"avx512f", "avx512ifma"} <= set(_cpu_field("flags").split())


def describe(root, build):
    interesting = {"avx2", "avx512f", "avx512ifma", "vaes", "vpclmulqdq"}
    commit = _output("git", "-C", str(root), "rev-parse", "--short=12", "HEAD")
    dirty = bool(_output("git", "-C", str(root), "status", "--porcelain"))
    lines = pathlib.Path("/proc/meminfo").read_text().splitlines()
    memory = next(line for line in lines if line.startswith("MemTotal"))
    return {
        "commit": commit + ("+changes" if dirty else ""),
        "processor": _cpu_field("model name"),
        "family_model": f"{_cpu_field('cpu family')}/{_cpu_field('model')}",
        "instruction_sets": sorted(interesting & set(_cpu_field("flags").split())),
        "cores": len([l for l in pathlib.Path("/proc/cpuinfo").read_text().splitlines() if l.startswith("processor")]),
        "memory_gib": round(int(memory.split()[1]) / 2**20),
        "kernel": platform.release(),
        "compiler": (_output("c++", "--version").splitlines() or [""])[0],
        "dpdk": _output("pkg-config", "--modversion", "libdpdk"),
        "build": build.name,
    }


def summary(machine):
    sets = " ".join(machine["instruction_sets"])
    return (f"{machine['processor']} (family/model {machine['family_model']}; {sets}), {machine['cores']} cores, "
            f"{machine['memory_gib']} GiB, Linux {machine['kernel']}, {machine['compiler']}, DPDK {machine['dpdk']}, "
            f"commit {machine['commit']}")
