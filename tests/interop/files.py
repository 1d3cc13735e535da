"""Files by telepathy-glib on both sides (glib_files.py): TpFileTransferChannel sends and receives."""
import os

from home import *  # noqa: F403  (the tests' own vocabulary)
from telepathy_glib import Side, do

COMPLETED, CANCELLED = 4, 5
REMOTE_STOPPED, LOCAL_ERROR, REMOTE_ERROR = 3, 4, 5


# In the agents.

def load_files(folder):
    import sys
    sys.path.insert(0, folder)
    import glib_files
    kept["client"] = glib_files.FileClient()


def sides():
    """Alice and Bob online by telepathy-glib, both taking files."""
    port = free_port()
    alice, bob = Side("alice", port, load_files), Side("bob", port, load_files)
    alice.id = alice.connect("alice", port)
    bob.id = bob.connect("bob", port)
    for one, other in ((alice, bob), (bob, alice)):
        one.announce_files()
    for one, other in ((alice, bob), (bob, alice)):
        assert one.takes_files(other.id)
    return alice, bob


def made(folder, name, size):
    """A file of so many bytes, and what is in it."""
    path = os.path.join(folder, name)
    data = bytes(number % 251 for number in range(size))
    with open(path, "wb") as file:
        file.write(data)
    return path, data


def read(path):
    with open(path, "rb") as file:
        return file.read()


def sent(alice, bob, name, size, path, target, offset=0, by="send"):
    """Alice sends, Bob receives from there; what each side's telepathy-glib says of the end."""
    # Both main loops must run at the same time.
    bob.agent.start(do, "receive", name, target, offset)
    getattr(alice, by)(bob.id, path, name, size)
    over = alice.over()
    return over, bob.agent.answer()


def arrives(sides, name, data, path, target, offset=0, by="send"):
    """The same of a transfer that is completed; gives what Bob knows of it."""
    over, known = sent(*sides, name, len(data), path, target, offset, by)
    assert over[0] == COMPLETED and over[3] == [], over
    assert known["state"][0] == COMPLETED and known["state"][3] == [], known
    assert read(target) == data[offset:], name
    return known


@scenario
def telepathy_glib_sends_and_receives_files():
    """TpFileTransferChannel on both sides, in both directions: capabilities, offer, accept, contents."""
    alice, bob = sides()
    here = alice.person.dir
    for size, sender, receiver in ((300_000, alice, bob), (70_001, bob, alice), (0, alice, bob)):
        name = f"{size} bytes"
        path, data = made(here, name, size)
        target = os.path.join(here, name + " there")
        known = arrives((sender, receiver), name, data, path, target)
        assert known["description"] == "said of it" and known["type"] == "text/plain", known
        assert known["uri"] == "file://" + target.replace(" ", "%20"), known


@scenario
def telepathy_glib_goes_on_from_an_offset():
    """AcceptFile with an offset: InitialOffset is it, and only the rest is sent. telepathy-glib begins its
    own file anew, and leaves it to its caller to put the parts together."""
    alice, bob = sides()
    path, data = made(alice.person.dir, "rest", 200_000)
    arrives((alice, bob), "rest", data, path, path + " there", 150_000, "send_rest")


@scenario
def telepathy_glib_that_sends_all_where_the_rest_is_wanted_completes_nothing():
    """As a sender it does not look at InitialOffset: what it writes is too long, and says so."""
    alice, bob = sides()
    path, data = made(alice.person.dir, "all", 200_000)
    over, known = sent(alice, bob, "all", len(data), path, path + " there", 150_000)
    assert over[:2] == [CANCELLED, LOCAL_ERROR], over
    assert known["state"][:2] == [CANCELLED, REMOTE_ERROR], known


@scenario
def telepathy_glib_sends_files_through_ip_sockets():
    """The access control that it prefers there is Port. The file is larger than what the kernel takes for a
    socket that nobody reads yet: an application that is gone before its user could be checked is refused."""
    alice, bob = sides()
    here = alice.person.dir
    for kind in (IPV4, IPV6):
        alice.show_only([kind])
        bob.show_only([kind])
        name = f"by {kind}"
        path, data = made(here, name, 16_000_000)
        target = os.path.join(here, name + " there")
        arrives((alice, bob), name, data, path, target)


@scenario
def telepathy_glib_hears_that_its_file_is_not_wanted():
    """A closed offer is Cancelled, by the contact."""
    alice, bob = sides()
    path, data = made(alice.person.dir, "unwanted", 10)
    alice.send(bob.id, path, "unwanted", len(data))
    assert bob.decline("unwanted")
    state, reason, count, _failed = alice.over()
    assert (state, reason, count) == (CANCELLED, REMOTE_STOPPED, 0), (state, reason, count)
