"""Says that the image can run functions. Run as its user, without a network: any error fails the build."""

import json
import os
import ssl
import subprocess
import sys

assert sys.prefix == "/opt/venv", sys.prefix
assert os.getuid() == 1000, os.getuid()
assert os.readlink("/inputs.json") == "/tmp/inputs.json"
assert os.readlink("/output.json") == "/tmp/output.json"
assert os.access("/opt/mecapy/runner.py", os.R_OK)
subprocess.run(["uv", "--version"], check=True)
print(json.dumps({"python": sys.version, "openssl": ssl.OPENSSL_VERSION}))
