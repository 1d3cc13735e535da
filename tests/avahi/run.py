#!/usr/bin/python3
"""Discovery through the real Avahi daemon, in network namespaces. Needs root, and avahi-daemon installed:
no daemon of this machine is used or disturbed.

usage: run.py [WORD…]   runs the scenarios whose name holds one of the words
"""
import os
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from machine import scenario  # noqa: E402
import together  # noqa: E402,F401  (each adds its scenarios)
import trouble  # noqa: E402,F401
import examined  # noqa: E402,F401

if __name__ == "__main__":
    if os.getuid() != 0:
        sys.exit("network namespaces need root")
    sys.exit(scenario.main())
