"""A machine with a system bus of its own and the real Avahi daemon on it; needs root."""
import os
import sys

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "support"))
from avahi import AVAHI, SERVER, SystemBus  # noqa: E402,F401
from network import Lan  # noqa: E402,F401
from person import *  # noqa: E402,F403  (the tests' own vocabulary)

# Avahi knows no other; each Lan is a network of its own.
PORT = 5353

scenario = Runner()


def person(name, machine, uid, discovery, system=None, **more):
    """Somebody on the port of everybody, who is found the way `discovery` says."""
    parameters = {"pneuma-discovery": GLib.Variant("s", discovery), **more.pop("parameters", {})}
    # Without a system bus of the test there is none: never this machine's own.
    env = system.env() if system else {"DBUS_SYSTEM_BUS_ADDRESS": "unix:path=/nonexistent/pneuma"}
    return Person(name, machine, uid, PORT, parameters, env=env, **more)


def found_by(someone):
    return someone.property(someone.path, CONNECTION + ".Interface.Pneuma.Discovery1", "Responder")


def said(someone, text):
    """Whether a connection manager wrote this."""
    with open(someone.manager.log, errors="replace") as log:
        return text in log.read()
