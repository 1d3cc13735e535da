#!/usr/bin/python3
"""A hostile network: every scenario ends with the honest tube still working. Needs root.

usage: run.py [WORD…]   runs the scenarios whose name holds one of the words
"""
import os
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from home import scenario  # noqa: E402
import discovery  # noqa: E402,F401  (each adds its scenarios)
import doctor  # noqa: E402,F401
import in_the_middle  # noqa: E402,F401
import filtered  # noqa: E402,F401
import link_local  # noqa: E402,F401
import strangers  # noqa: E402,F401
import floods  # noqa: E402,F401
import dbus_tubes  # noqa: E402,F401

if __name__ == "__main__":
    if os.getuid() != 0:
        sys.exit("network namespaces need root")
    sys.exit(scenario.main())
