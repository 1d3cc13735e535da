"""What `pneuma install` puts where shells and `man` look: read by them, from there."""
import glob
import subprocess

from home import *  # noqa: F403


def installed():
    """Everything installed below a folder of its own; where pneuma is found by name."""
    prefix = tempfile.mkdtemp(prefix="pneuma-prefix-", dir="/tmp")
    to_close.append(Folder(prefix))
    run(binary("pneuma"), "install", "--prefix", prefix)
    return prefix


class Folder:
    """A folder that goes with the scenario."""

    def __init__(self, path):
        self.path = path

    def close(self):
        shutil.rmtree(self.path)


def told(*command, **more):
    """What a command writes; it must work and complain of nothing."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, **more)
    assert done.returncode == 0 and not done.stderr, (command, done.returncode, done.stderr)
    return done.stdout


@scenario
def the_manual_is_read_without_a_complaint():
    """man and mandoc read every page; each has its name, and apropos' line."""
    prefix = installed()
    pages = sorted(glob.glob(f"{prefix}/share/man/man?/*"))
    names = [os.path.basename(page) for page in pages]
    for page in ("pneuma.1", "pneuma-offer.1", "pneuma-tubes.1", "telepathy-pneuma.8"):
        assert page in names, names
    told("mandoc", "-T", "lint", "-W", "error", *pages)
    for page in pages:
        text = told("man", "--warnings", "-E", "UTF-8", "-l", page,
                    env={**os.environ, "MANWIDTH": "80", "LANG": "C.UTF-8", "TERM": "dumb"})
        name = os.path.basename(page).rsplit(".", 1)[0]
        assert f"{name} - " in " ".join(text.split()), text[:300]
    found = told("man", "-M", f"{prefix}/share/man", "-w", "pneuma-tubes").strip()
    assert found == f"{prefix}/share/man/man1/pneuma-tubes.1", found


@scenario
def fish_completes_from_where_it_looks():
    """fish, asked what it would offer."""
    prefix = installed()
    script = f"{prefix}/share/fish/vendor_completions.d/pneuma.fish"
    env = {**os.environ, "PATH": f"{prefix}/bin:{os.environ['PATH']}", "HOME": prefix}
    offered = lambda line: [row.split("\t")[0] for row in told(
        "fish", "--no-config", "-c", f"source {script}; complete -C '{line}'", env=env).splitlines()]
    assert offered("pneuma off") == ["offer"], offered("pneuma off")
    assert "--close" in offered("pneuma tubes --cl"), offered("pneuma tubes --cl")
    assert "service" not in offered("pneuma s"), offered("pneuma s")


@scenario
def zsh_completes_from_where_it_looks():
    """zsh with its completion system, on a terminal of its own, and a Tab."""
    prefix = installed()
    script = f"""
        fpath=({prefix}/share/zsh/site-functions $fpath)
        autoload -Uz compinit && compinit -u -d {prefix}/dump
        zmodload zsh/zpty
        zpty shell zsh -f -i
        zpty -w shell "PS1=; fpath=({prefix}/share/zsh/site-functions \\$fpath)"
        zpty -w shell "autoload -Uz compinit && compinit -u -d {prefix}/dump2; echo rea''dy"
        zpty -r shell line '*ready*'
        zpty -w -n shell $'pneuma dem\\t'
        zpty -r shell line '*demo*'
        print -r -- completed
        zpty -d shell
    """
    env = {**os.environ, "PATH": f"{prefix}/bin:{os.environ['PATH']}", "HOME": prefix, "TERM": "dumb"}
    assert told("zsh", "-f", "-c", script, env=env).strip().endswith("completed")
