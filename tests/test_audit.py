"""`make lint`'s audit of packages, with the real pip-audit and a database on the loopback."""

import json
import subprocess
import sys
from http.server import BaseHTTPRequestHandler

import pytest
from helpers import ROOT, serving

pytest.importorskip("pip_audit")
pytestmark = pytest.mark.slow


def audit(url: str) -> tuple[int, str]:
    command = [sys.executable, ".ci/audit.py", "--osv-url", url]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return done.returncode, done.stdout


@pytest.mark.parametrize(
    ("package", "fixed", "code"),
    [("no-such-package", "1", 0), ("httpx", "0.99", 1), ("pillow", "12.99", 1), ("pillow", "13.0.0", 0)],
)
def test_what_is_known_is_told_and_fails_unless_its_mending_can_not_be_had(package, fixed, code):
    events = [{"introduced": "0"}, {"fixed": fixed}]
    affected = {"package": {"name": package, "ecosystem": "PyPI"}, "ranges": [{"type": "ECOSYSTEM", "events": events}]}
    known = {"id": "PYSEC-1", "summary": "a hole", "affected": [affected]}

    class Database(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps({"vulns": [known]} if asked["package"]["name"] == package else {}).encode())

    with serving(Database) as port:
        returned, said = audit(f"http://127.0.0.1:{port}")
    assert returned == code
    assert said.count(f"PYSEC-1, mended in {fixed}") == (0 if package == "no-such-package" else 2)
    assert "Not audited" not in said


def test_without_a_database_it_says_so_and_passes():
    returned, said = audit("http://127.0.0.1:9")
    assert returned == 0
    assert said.count("Not audited") == 2
