"""What `pneuma doctor` finds on somebody's machine."""
import json
import subprocess

from world import *  # noqa: F403  (names and helpers)


def doctor(person, uid=ALICE, **environment):
    """All findings, by verdict and check; the exit code fits them."""
    env = {**person.env(), "PNEUMA_INTERFACE": "", "PNEUMA_MDNS_PORT": str(person.port), **environment}
    done = subprocess.run(person.machine.prefix(uid) + [public(binary("pneuma")), "doctor", "--json"],
                          env=env, capture_output=True, text=True, timeout=120)
    found = json.loads(done.stdout)
    wrong = any(finding["verdict"] == "wrong" for finding in found)
    assert done.returncode == int(wrong), (done.returncode, done.stdout, done.stderr)
    by = {}
    for finding in found:
        by.setdefault((finding["verdict"], finding["check"]), []).append(f"{finding['what']} > {finding['todo']}")
    return by


def says(found, verdict, check, *parts):
    sentences = found.get((verdict, check), [])
    assert any(all(part in sentence for part in parts) for sentence in sentences), (verdict, check, parts, found)


def comes_to_say(person, verdict, check, *parts, **more):
    """The same of what takes packets that are heard in time: a machine that is busy elsewhere gets three."""
    for attempt in (1, 2, 3):
        found = doctor(person, **more)
        try:
            return says(found, verdict, check, *parts)
        except AssertionError:
            if attempt == 3:
                raise
