"""Known vulnerabilities of what is installed, by pip-audit; a line, and no failure, without it.

The service that knows them is on the network. Where it does not answer, or knows none of these
packages, nothing was checked: that is said, and is no fault of the sources.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

COMMAND = (
    *(sys.executable, "-m", "pip_audit", "--skip-editable", "--progress-spinner", "off"),
    *("--timeout", "10", "--format", "json"),
)
LIMIT_S = 300


def run() -> tuple[str, str]:
    """What pip-audit writes: its report, and what it complains of."""
    try:
        done = subprocess.run(COMMAND, capture_output=True, text=True, timeout=LIMIT_S, check=False)
    except subprocess.TimeoutExpired:
        return "", f"no report within {LIMIT_S} seconds"
    return done.stdout, done.stderr


def verdict(report: str, complaint: str) -> tuple[int, list[str]]:
    """The exit status, and the lines to show."""
    try:
        packages: list[dict[str, Any]] = json.loads(report)["dependencies"]
    except (ValueError, KeyError, TypeError):
        reason = complaint.strip().splitlines()[-1:] or ["it wrote no report"]
        return 0, [f"pip-audit: skipped, nothing was checked: {reason[0]:.200}"]
    known = [package for package in packages if "vulns" in package]
    if not known:
        told = f"the service knows none of the {len(packages)} packages"
        return 0, [f"pip-audit: skipped, nothing was checked: {told}"]
    found = [(package, one) for package in known for one in package["vulns"]]
    lines = [
        f"pip-audit: {package['name']} {package['version']} has {one['id']}, "
        f"mended in {', '.join(one['fix_versions']) or 'no version'}"
        for package, one in found
    ]
    rest = len(packages) - len(known)
    lines.append(f"pip-audit: {len(found)} found in {len(known)} packages; {rest} are not known")
    return int(bool(found)), lines


if __name__ == "__main__":
    status, told = verdict(*run())
    sys.stdout.write("\n".join(told) + "\n")
    sys.exit(status)
