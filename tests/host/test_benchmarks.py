"""A benchmark that reaches into the pack still runs: nothing but its own command would tell."""

import subprocess
import sys

from tools.comfy import ROOT


def test_launches_are_counted(pack):
    command = [sys.executable, "-m", "benchmarks.gpu_launches"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert ran.returncode == 0, ran.stderr[-2000:]
    lines = [line for line in ran.stdout.splitlines() if "-bit" in line]
    counted = dict(line.rsplit(maxsplit=2)[::2] for line in lines)
    assert int(counted["sd15 8-bit"]) < 40 and int(counted["sdxl 4-bit"]) < 100
