#!/usr/bin/python3
"""Real clients on both sides: two connection managers, two buses, programs nobody here wrote.

usage: run.py [WORD…]   runs the scenarios whose name holds one of the words
"""
import os
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from home import scenario  # noqa: E402
import telepathy_glib  # noqa: E402,F401  (each adds its scenarios)
import files  # noqa: E402,F401
import dbus_tubes  # noqa: E402,F401
import sharing  # noqa: E402,F401
import sockets  # noqa: E402,F401
import introspection  # noqa: E402,F401
import debug  # noqa: E402,F401
import no_bus  # noqa: E402,F401
import command_line  # noqa: E402,F401
import managed_files  # noqa: E402,F401
import managed_dbus  # noqa: E402,F401
import mission_control  # noqa: E402,F401
import kept  # noqa: E402,F401
import ssh_contact  # noqa: E402,F401
import shells  # noqa: E402,F401
import telepathy_qt  # noqa: E402,F401
import programs  # noqa: E402,F401
import kde  # noqa: E402,F401
import pidgin  # noqa: E402,F401

if __name__ == "__main__":
    sys.exit(scenario.main())
