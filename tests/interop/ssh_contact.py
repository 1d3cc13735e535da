"""Debian's ssh-contact on both sides, a real sshd behind it: ssh to a contact, through a tube.

    Alice's machine                                    Bob's machine
    ssh-contact ─ Mission Control ─ pneuma ──────── pneuma ─ Mission Control ─ ssh-contact-service
      └ ssh                                                                      └ 127.0.0.1:22, sshd

The service dials port 22 of its own loopback and nothing else, so each machine is a network namespace.
Nobody but root may start sshd there; everything else runs as its user.
"""
import hashlib

from home import *  # noqa: F403
from managed import Managed

MIB = 1024 * 1024


class Sshd:
    """A real sshd on port 22 of a person's machine, which lets that person in by a key."""

    def __init__(self, person, key):
        self.dir = tempfile.mkdtemp(prefix="pneuma-sshd-", dir="/tmp")
        to_close.append(self)
        at = lambda name: os.path.join(self.dir, name)
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", at("host_key"))
        with open("/etc/passwd") as users, open(at("passwd"), "w") as mine:
            for user in users:
                name, _, uid, *rest = user.split(":")
                # The users of these tests have no shell.
                mine.write(user if int(uid) != person.uid else ":".join(
                    [name, "x", uid, *rest[:-2], person.dir + "/home", "/bin/sh\n"]))
        os.chmod(at("passwd"), 0o644)
        self.login = pwd.getpwuid(person.uid).pw_name
        shutil.copy(key + ".pub", at("authorized_keys"))
        with open(at("sshd_config"), "w") as config:
            config.write(f"ListenAddress 127.0.0.1:22\nHostKey {at('host_key')}\nUsePAM no\n"
                         f"AuthorizedKeysFile {at('authorized_keys')}\nStrictModes no\n"
                         "PasswordAuthentication no\nPidFile none\nLogLevel VERBOSE\n")
        os.chmod(self.dir, 0o755)
        # What it changes of the file system is seen by nobody else.
        inside = (f"mount --bind {at('passwd')} /etc/passwd && mount -t tmpfs tmpfs /run && "
                  f"mkdir -m 755 /run/sshd && exec /usr/sbin/sshd -D -e -f {at('sshd_config')}")
        self.process = Process("sshd", person.machine.prefix() + ["unshare", "--mount", "sh", "-c", inside],
                               {"PATH": os.environ["PATH"]}, at("log"))
        until("sshd listens", lambda: "Server listening" in self.process.output(), detail=self.process.output)

    def host_key(self):
        with open(os.path.join(self.dir, "host_key.pub")) as file:
            return file.read()

    def close(self):
        self.process.kill()
        shutil.rmtree(self.dir, ignore_errors=True)
        if self in to_close:
            to_close.remove(self)


class Scene:
    def __init__(self):
        port = free_port()
        lan = Lan("alice", "bob")
        self.alice = Managed("alice", machine=lan.alice, uid=ALICE, port=port)
        self.bob = Managed("bob", machine=lan.bob, uid=BOB, port=port)
        key = os.path.join(self.alice.dir, "home", "key")
        self.alice.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key)
        self.sshd = Sshd(self.bob, key)
        # ssh-contact looks at the contact's capabilities once and does not wait for them.
        contact = self.contact = self.alice.sees(self.bob)[0]
        until("alice sees that ssh-contact waits at bob's",
              lambda: "x-ssh-contact" in (self.alice.contacts()[contact][2] or ()), detail=self.alice.seen)
        known = os.path.join(self.alice.dir, "home", "known_hosts")
        with open(known, "w") as file:
            file.write(f"{contact} {self.sshd.host_key()}")
        self.options = ["-F", "none", "-i", key, "-o", f"UserKnownHostsFile={known}",
                        "-o", "StrictHostKeyChecking=yes", "-o", "BatchMode=yes"]

    def ssh(self, *command, **more):
        """What came out of a command that ran at Bob's. (ssh-contact itself always ends with 1.)"""
        return self.alice.run(
            "ssh-contact", "--account", self.alice.account, "--contact", self.contact,
            "--login", self.sshd.login, "--", *self.options, *command, check=False, **more)

    def no_tubes_left(self):
        for person in (self.alice, self.bob):
            until(f"no tube of {person.name} is left", lambda: person.property(
                person.path, REQUESTS, "Channels") == [], detail=person.seen)


def digest(data):
    return hashlib.sha256(data).hexdigest()


@scenario
def ssh_contact_logs_in_at_a_contact_and_moves_100_mib():
    """ssh-contact -- cat: a login, 100 MiB there and back, then each way alone, checksums compared."""
    scene = Scene()
    said = scene.ssh("id -un; hostname; echo $SSH_CONNECTION")
    assert said.stdout.split()[0] == scene.sshd.login, (said, scene.sshd.process.output())
    scene.no_tubes_left()
    data = os.urandom(100 * MIB)
    begun = time.monotonic()
    back = scene.ssh("cat", text=False, stdin=None, input=data, patience=300)
    print(f"   100 MiB there and back: {200 / (time.monotonic() - begun):.0f} MiB/s")
    assert len(back.stdout) == len(data) and back.stdout == data, (len(back.stdout), back.stderr)
    assert back.stderr == b"", back.stderr
    scene.no_tubes_left()
    there = scene.ssh("sha256sum", text=False, stdin=None, input=data, patience=300)
    assert there.stdout.split()[0].decode() == digest(data), (there.stdout, there.stderr)
    here = scene.ssh("head -c 104857600 /dev/zero | tee /dev/stderr", text=False, patience=300)
    assert len(here.stdout) == 100 * MIB and len(here.stderr) == 100 * MIB, (len(here.stdout), len(here.stderr))
    assert digest(here.stdout) == digest(here.stderr) == digest(bytes(100 * MIB))
    scene.no_tubes_left()


@scenario
def ssh_contact_is_told_when_the_contact_is_not_there():
    """ssh-contact to a contact whose service went away ends and leaves no tube."""
    scene = Scene()
    scene.sshd.process.kill()
    refused = scene.ssh("true")
    assert refused.returncode != 0
    scene.no_tubes_left()
    scene.bob.request_presence("offline")
    scene.bob.disconnected()
    until("alice sees that bob is gone", lambda: scene.alice.contacts().get(scene.contact, (0, 1))[1] == 1,
          detail=scene.alice.seen)
    refused = scene.ssh("true")
    assert "No suitable contact" in refused.stdout, refused
