"""What `pneuma doctor` says of machines that are broken on purpose. What a person's own files are enough to break
is in tests/cli."""
from findings import comes_to_say, doctor, says
from home import *  # noqa: F403


@scenario
def the_doctor_sees_a_firewall():
    """Packets of discovery are dropped: said of the interface, and of our own announcement."""
    lan = Lan("alice")
    person = Person("alice", lan.alice, ALICE)
    says(doctor(person), "ok", "interfaces", "eth0")
    comes_to_say(person, "ok", "multicast", "eth0")
    comes_to_say(person, "ok", "announcement", "alice@")
    rules = f"table inet wall {{ chain in {{ type filter hook input priority 0; udp dport {person.port} drop; }}; }}"
    run("ip", "netns", "exec", lan.alice.namespace, "nft", rules)
    found = doctor(person)
    says(found, "wrong", "multicast", "eth0", "firewall", str(person.port))
    says(found, "wrong", "announcement", "alice@", "not heard", "firewall")
    run("ip", "netns", "exec", lan.alice.namespace, "nft", "delete table inet wall")
    comes_to_say(person, "ok", "announcement", "alice@")


@scenario
def the_doctor_sees_a_machine_without_a_network():
    """No interface, no IPv6, no loopback, one after the other."""
    lan = Lan("alice")
    person = Person("alice", lan.alice, ALICE, online=False)
    inside = ["ip", "-n", lan.alice.namespace]
    run(*inside, "link", "set", "eth0", "down")
    found = doctor(person)
    says(found, "wrong", "interfaces", "no network interface", "connect")
    says(found, "ok", "who-connects")
    run("ip", "netns", "exec", lan.alice.namespace, "sh", "-c",
        "echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6")
    says(doctor(person), "note", "ipv6", "IPv4 serves")
    run(*inside, "link", "set", "lo", "down")
    run(*inside, "addr", "flush", "dev", "lo")
    says(doctor(person), "wrong", "who-connects", "127.0.0.1")


@scenario
def the_doctor_sees_another_user_s_folder():
    """As after `su`: the runtime folder is somebody else's, and so is whoever listens on the port."""
    lan = Lan("alice")
    person = Person("alice", lan.alice, ALICE)
    shared = tempfile.mkdtemp(prefix="pneuma-shared-", dir="/tmp")
    try:
        os.chmod(shared, 0o755)
        theirs = os.path.join(shared, "run")
        os.mkdir(theirs, 0o700)
        os.chown(theirs, ALICE, ALICE)
        home = os.path.join(shared, "home")
        os.mkdir(home, 0o700)
        os.chown(home, MALLORY, MALLORY)
        found = doctor(person, MALLORY, XDG_RUNTIME_DIR=theirs, HOME=home, XDG_STATE_HOME=home)
        says(found, "wrong", "runtime-folder", f"number {ALICE}", "su")
        says(found, "wrong", "session-bus", "does not answer")
        says(found, "note", "responders", f"user {ALICE}")
        # The other's keys are the other's.
        os.chmod(home, 0o755)
        profile = os.path.join(home, "pneuma", "default")
        os.makedirs(profile)
        for folder in (os.path.dirname(profile), profile):
            os.chmod(folder, 0o755)
        found = doctor(person, MALLORY, HOME=home, XDG_STATE_HOME=home)
        says(found, "wrong", "profile", "another user")
    finally:
        shutil.rmtree(shared)
