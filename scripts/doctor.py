"""Say what is installed and works: ``python scripts/doctor.py``. Exit code 1 if a required part is missing."""

from __future__ import annotations

import _installed  # noqa: F401 (first: without splatseg it says so)
from _cli import run

from splatseg.cli.doctor import examine


def main() -> int:
    findings = examine()
    width = max(len(finding.subject) for finding in findings)
    for finding in findings:
        mark = " " if finding.ok else ("!" if finding.required else "-")
        print(
            f"{mark} {finding.subject:<{width}}  {finding.state}" + (f"   ->  {finding.mend}" if finding.mend else "")
        )
    return int(any(finding.required and not finding.ok for finding in findings))


if __name__ == "__main__":
    run(main)
