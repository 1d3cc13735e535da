"""`pneuma send` and `pneuma receive` where Mission Control manages the accounts: it makes the sender's
channel, and hands the receiver's to the command that waits for files."""
import hashlib

from command_line import OFFLINE, handlers, pair
from home import *  # noqa: F403

CAP = 2 << 20  # bytes a second


def people():
    """Alice and Bob with accounts that have names and are offline, and a folder of Bob's to receive into."""
    alice, bob = pair()
    for person in (alice, bob):
        person.run(public(binary("pneuma")), "contacts")
        person.disconnected()
        os.mkdir(os.path.join(person.dir, "in"))
    return (alice, bob), [person.of_account("NormalizedName") for person in (alice, bob)]


def receiving(person, *more):
    command = person.pneuma("receive", "--dir", os.path.join(person.dir, "in"), *more)
    command.event("ready")
    return command


def made(person, name, size):
    """A file to send; its SHA-256."""
    data = os.urandom(size)
    path = os.path.join(person.dir, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(data)
    return hashlib.sha256(data).hexdigest()


def arrived(person, name):
    with open(os.path.join(person.dir, "in", name), "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def has(person):
    return sorted(os.listdir(os.path.join(person.dir, "in")))


def ended(command, code=0):
    assert command.ends() == code, command.output()


@scenario
def pneuma_sends_and_receives_files_by_mission_control():
    """A file and a folder in both directions; the accounts come and go with the commands."""
    (alice, bob), ids = people()
    for sender, receiver, to in ((alice, bob, ids[1]), (bob, alice, ids[0])):
        taking = receiving(receiver, "--count", "2")
        receiver.connected()
        sums = {name: made(sender, name, size) for name, size in (
            ("a file", 3_000_001), ("tree/empty", 0), ("tree/deep/er/one", 70_000), ("tree/two", 1))}
        os.symlink("deep/er/one", os.path.join(sender.dir, "tree", "link"))
        sending = sender.pneuma("send", "a file", "tree", to)
        for each in ("first", "second"):
            taking.event("completed")
            sending.event("completed")
        ended(sending)
        ended(taking)
        assert has(receiver) == ["a file", "tree"], has(receiver)
        for name, digest in sums.items():
            assert arrived(receiver, name) == digest, name
        link = os.readlink(os.path.join(receiver.dir, "in", "tree", "link"))
        assert link == "deep/er/one", link
        for person in (alice, bob):
            person.disconnected()
            assert person.of_account("RequestedPresence")[0] == OFFLINE
    until("no Handler is left", lambda: handlers(alice) == handlers(bob) == [], detail=bob.seen)


@scenario
def pneuma_declines_files_by_mission_control():
    """What the receiver does not take ends the sender's command, and nothing of it is there."""
    (alice, bob), (_, to) = people()
    taking = receiving(bob, "--accept", "verified")
    made(alice, "unwanted", 1000)
    sending = alice.pneuma("send", "unwanted", to)
    declined = taking.event("declined")
    assert declined["name"] == "unwanted" and "compared" in declined["reason"], declined
    sending.event("declined")
    ended(sending, 4)
    assert taking.interrupt() == 0
    assert has(bob) == [], has(bob)


@scenario
def pneuma_goes_on_with_a_file_after_its_receiver_was_killed_by_mission_control():
    """The receiving command is killed with -9 half way. Mission Control closes what it held; the sender
    offers it again, and the next command goes on where the first was."""
    (alice, bob), (_, to) = people()
    size = 6 * CAP
    digest = made(alice, "long", size)
    alice.run(public(binary("pneuma")), "--yes", "policy", "set", "everybody", "file-transfer", "--max-rate", str(CAP))
    taking = receiving(bob)
    sending = alice.pneuma("send", "long", to)
    while taking.event("progress")["bytes"] < CAP:
        pass
    taking.close()
    assert has(bob) == ["long.part"], has(bob)
    sending.event("broken")
    taking = receiving(bob, "--once")
    flowing = taking.event("flowing")
    assert flowing["offset"] >= CAP, flowing
    taking.event("completed")
    ended(taking)
    completed = sending.event("completed")
    ended(sending)
    assert completed["handed"] < size + CAP, completed
    assert has(bob) == ["long"] and arrived(bob, "long") == digest, has(bob)
