"""What is known against the packages that we ask for, by pip-audit; `make lint` runs it.

Audited are the pinned versions and the lowest that requirements.txt allows. Something known fails it. Where pip-audit
can't reach its data, that is said, and it passes.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
LIMIT = 240  # seconds for each list
OPTIONS = ("--no-deps", "--disable-pip", "--progress-spinner=off", "--timeout=10", "--vulnerability-service=osv")
# What is mended from these versions on only is told and passes, since something that we need does not take them.
WAITING = {"pillow": ("13", "Gradio 6.31.0 takes none from 13 on")}


def read(name: str) -> list[str]:
    """The requirements in a file, without comments and options."""
    lines = (line.partition("#")[0].strip() for line in (ROOT / name).read_text().splitlines())
    return [line for line in lines if line and not line.startswith("-")]


def lowest(requirement: str) -> str:
    """The lowest version that a requirement allows, as one for that alone."""
    return re.sub(r"(\[.*\])?[>=]=", "==", requirement)


def audit(requirements: list[str], options: list[str]) -> list[dict] | None:
    """What pip-audit says of each, or None, with the reason on the terminal, if it says nothing."""
    with tempfile.TemporaryDirectory() as folder:
        asked, answer = Path(folder, "requirements.txt"), Path(folder, "answer.json")
        asked.write_text("\n".join(requirements))
        command = [sys.executable, "-m", "pip_audit", "-r", asked, "-f", "json", "-o", answer, *OPTIONS, *options]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, check=False)
        except subprocess.TimeoutExpired:
            print(f"Not audited: pip-audit had not ended after {LIMIT} seconds.")
            return None
        if not answer.exists():
            print(f"Not audited: {(done.stderr.strip().splitlines() or ['pip-audit said nothing'])[-1]}")
            return None
        return list(json.loads(answer.read_text())["dependencies"])


def tell(package: dict) -> bool:
    """Print what is known against a package; whether any of that could be mended."""
    major, reason = WAITING.get(package["name"], ("", ""))
    found = False
    for known in package.get("vulns", []):
        fixes = known["fix_versions"]
        waits = bool(fixes) and all(fix.split(".")[0] == major for fix in fixes)
        found |= not waits
        mended = f"mended in {', '.join(fixes) or 'no version'}{f': {reason}' if waits else ''}"
        print(f"{package['name']} {package['version']}: {known['id']}, {mended}")
    return found


def main(options: list[str]) -> int:
    found = False
    for requirements in (read("constraints.txt"), [lowest(requirement) for requirement in read("requirements.txt")]):
        for package in audit(requirements, options) or []:
            found |= tell(package)
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
