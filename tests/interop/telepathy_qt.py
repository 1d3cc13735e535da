"""telepathy-qt on both sides: a small client (telepathy_qt/tube.cpp), built here against Debian's library."""
import shutil
import subprocess
import tempfile

from home import *  # noqa: F403  (the tests' own vocabulary)

BYTES = 300_000
_client = None


def client():
    """The client's path; built once."""
    global _client
    if _client is None:
        folder = tempfile.mkdtemp(prefix="pneuma-qt-", dir="/tmp")
        atexit.register(shutil.rmtree, folder, True)
        built = os.path.join(folder, "tube")
        flags = run("pkg-config", "--cflags", "--libs", "TelepathyQt5", "Qt5DBus", "Qt5Network").split()
        # C++17 of 2026 finds fault with headers of 2020: those are not ours.
        run("g++", "-std=c++17", "-fPIC", "-Wall", "-Werror", "-o", built,
            os.path.join(HERE, "telepathy_qt", "tube.cpp"),
            *(flag.replace("-I", "-isystem", 1) for flag in flags))
        _client = built
    return _client


class QtSide:
    """A person whose client is telepathy-qt's."""

    def __init__(self, name, port):
        self.person, self.name, self.port = Person(name, port=port, online=False), name, port
        self.process, self.runs = None, 0
        to_close.append(self)
        # Its parser of such files is another one than telepathy-glib's.
        managers = os.path.join(self.person.dir, "data", "telepathy", "managers")
        os.makedirs(managers)
        shutil.copy(os.path.join(ROOT, "data", "pneuma.manager"), managers)

    def start(self, role, peer, service, kind, *more):
        self.runs += 1
        self.process = Process("telepathy-qt", [
            client(), role, self.name, str(self.port), peer, service, kind, *map(str, more)],
            self.person.env(), os.path.join(self.person.dir, f"qt{self.runs}.log"))

    def ended(self):
        """Waits for the client's end; gives the lines it said."""
        until(f"{self.name}'s client ends", lambda: self.process.child.poll() is not None, 60, self.seen)
        if self.process.child.returncode != 0:
            raise Failure(self.seen())
        with open(self.process.log, errors="replace") as log:
            return log.read().splitlines()

    def seen(self):
        return self.process.output() + self.person.seen()

    def close(self):
        if self.process:
            self.process.kill()
        if self in to_close:
            to_close.remove(self)


def use_a_tube(initiator, target, kind):
    """`initiator` offers an echo, `target` uses and closes it; each looks at what telepathy-qt says."""
    service = f"x-qt-{kind}"
    initiator.start("offer", target.name, service, kind)
    target.start("accept", initiator.name, service, kind, BYTES)
    accepted, offered = target.ended(), initiator.ended()
    ids = [next(line.split()[1] for line in said if line.startswith("online ")) for said in (offered, accepted)]
    assert f"sees {ids[1]} available" in offered, offered
    assert f"sees {ids[0]} available" in accepted, accepted
    assert "same" in accepted and "gone" in accepted, accepted
    assert "open" in offered and "gone" in offered, offered
    assert f"connection of {ids[1]}" in offered, offered


@scenario
def telepathy_qt_offers_and_accepts_on_both_sides():
    """StreamTubeChannel of telepathy-qt on both sides, both ways, over TCP and Unix sockets."""
    port = free_port()
    alice, bob = QtSide("alice", port), QtSide("bob", port)
    use_a_tube(alice, bob, "tcp")
    use_a_tube(bob, alice, "unix")
