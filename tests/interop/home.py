"""What the scenarios with real clients share: the list they add themselves to, and the tests' vocabulary."""
import os
import sys

sys.dont_write_bytecode = True
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "support"))
from network import Lan, Machine  # noqa: E402,F401
from person import *  # noqa: E402,F403  (the tests' own vocabulary)

scenario = Runner()
