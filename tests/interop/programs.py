"""Programs that know nothing of tubes, through one: a VNC server and a viewer, a web server and a browser."""
import functools
import hashlib
import http.server
import itertools
import re
import threading
import urllib.error
import urllib.request

from home import *  # noqa: F403  (the tests' own vocabulary)

gi.require_version("GdkPixbuf", "2.0")
from gi.repository import GdkPixbuf  # noqa: E402

WIDTH, HEIGHT = 640, 480


def lent(service, address, kind):
    """Alice lends what listens at `address` to Bob; gives both, and where Bob's programs find it."""
    port = free_port()
    alice, bob = Person("alice", port=port), Person("bob", port=port)
    tube = alice.create_tube(alice.handle_of("bob"), service)
    bob.sees("alice")
    alice.offer(tube, address)
    return alice, bob, bob.accept(bob.offered(service), kind)


class Screen:
    """A screen nobody looks at, with a VNC server, at a Unix socket."""

    def __init__(self):
        self.dir = tempfile.mkdtemp(prefix="pneuma-screen-", dir="/tmp")
        atexit.register(shutil.rmtree, self.dir, True)
        self.socket = os.path.join(self.dir, "rfb")
        read, write = os.pipe()
        # The server finds a display that is free and writes its number.
        self.process = Process("Xvnc", [
            "Xvnc", "-displayfd", str(write), "-geometry", f"{WIDTH}x{HEIGHT}", "-depth", "24",
            "-SecurityTypes", "None", "-rfbport", "-1", "-rfbunixpath", self.socket, "-rfbunixmode",
            "0600", "-nolisten", "tcp", "-nocursor", "-noreset"], {"PATH": os.environ["PATH"], "HOME": self.dir},
            os.path.join(self.dir, "log"), pass_fds=[write])
        to_close.append(self)
        os.close(write)
        os.set_blocking(read, False)
        with open(read, "rb", buffering=0) as numbers:
            number = until("the screen is there", lambda: (numbers.read() or b"").strip(), detail=self.process.output)
        self.display = f":{int(number)}"
        until("VNC is served", lambda: os.path.exists(self.socket), detail=self.process.output)

    def draw(self, seed):
        """Covers the screen with a picture, no row of it like another; gives its pixels, three bytes each."""
        rows, pixels = [], bytearray()
        ink, paper = bytes.fromhex("c01080"), bytes.fromhex("10e0a0")
        state = hashlib.shake_256(seed.encode()).digest(WIDTH * HEIGHT // 8)
        for at in range(0, len(state), WIDTH // 8):
            row = state[at:at + WIDTH // 8]
            rows.append(",".join(f"0x{byte:02x}" for byte in row))
            # In a bitmap the lowest bit is the leftmost.
            for byte, bit in itertools.product(row, range(8)):
                pixels += ink if byte >> bit & 1 else paper
        bitmap = os.path.join(self.dir, "bitmap")
        with open(bitmap, "w") as file:
            file.write(f"#define it_width {WIDTH}\n#define it_height {HEIGHT}\n"
                       f"static char it_bits[] = {{\n{','.join(rows)}}};\n")
        # Comes back once the server has drawn: xsetroot closes the display in order.
        run("xsetroot", "-display", self.display, "-bitmap", bitmap, "-fg", "#c01080", "-bg", "#10e0a0")
        return bytes(pixels)

    def close(self):
        self.process.kill()
        if self in to_close:
            to_close.remove(self)


def capture(person, door, name):
    """What a viewer at `door` sees: its pixels."""
    path = os.path.join(person.dir, name + ".png")
    host = f"{door[1]}:{door[2] - 5900}"
    viewer = Process("gvnccapture", ["gvnccapture", "--quiet", host, path], person.env(),
                     os.path.join(person.dir, name + ".log"))
    until("the viewer has a picture", lambda: viewer.child.poll() is not None,
          detail=lambda: viewer.output() + person.seen())
    viewer.kill()
    assert viewer.child.returncode == 0, viewer.output()
    picture = GdkPixbuf.Pixbuf.new_from_file(path)
    assert (picture.get_width(), picture.get_height()) == (WIDTH, HEIGHT)
    bytes_each, stride = picture.get_n_channels(), picture.get_rowstride()
    data, pixels = picture.read_pixel_bytes().get_data(), bytearray()
    for y in range(HEIGHT):
        row = data[y * stride:y * stride + WIDTH * bytes_each]
        colours = bytearray(WIDTH * 3)
        for colour in range(3):
            colours[colour::3] = row[colour::bytes_each]
        pixels += colours
    return bytes(pixels)


def compare(seen, drawn):
    wrong = [at // 3 for at in range(0, len(drawn), 3) if seen[at:at + 3] != drawn[at:at + 3]]
    assert not wrong, f"{len(wrong)} pixels differ, the first at {wrong[0] % WIDTH},{wrong[0] // WIDTH}"


@scenario
def a_viewer_shows_what_is_on_the_other_screen():
    """Xvnc lent as `rfb`, gvnccapture at the other end: each pixel is what was drawn, twice."""
    screen = Screen()
    _, bob, door = lent("rfb", ["unix", screen.socket], IPV4)
    first = screen.draw("first")
    compare(capture(bob, door, "first"), first)
    second = screen.draw("second")
    assert second != first
    compare(capture(bob, door, "second"), second)


LARGE = 128 * 1024 * 1024
PAGE = """<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>Alice's files</title></head>
<body><a id="large" href="large.bin" download>the large one</a></body></html>"""


class Files(http.server.SimpleHTTPRequestHandler):
    """Serves a folder, as `python3 -m http.server` does, without telling everybody."""

    def log_message(self, *_):
        pass


def web_server(folder):
    """Serves a folder until the test's end; gives its address."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Files, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return ["tcp", *server.server_address]


class Browser:
    """Chromium without a screen, driven by WebDriver (https://www.w3.org/TR/webdriver2/)."""

    def __init__(self, person):
        self.person = person
        self.downloads = os.path.join(person.dir, "downloads")
        os.mkdir(self.downloads)
        env = {**person.env(), "TMPDIR": os.path.join(person.dir, "home")}
        self.driver = Process("chromedriver", ["chromedriver", "--port=0"], env,
                              os.path.join(person.dir, "browser.log"))
        to_close.append(self)
        self.session = None
        listening = until("the driver listens", lambda: re.search(
            r"started successfully on port (\d+)", self.driver.output()), detail=self.driver.output)
        self.url = f"http://127.0.0.1:{listening[1]}"
        # The pipe ends the browser when the driver has ended, however that came.
        options = {"binary": "/usr/bin/chromium", "args": [
            "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-quic",
            "--no-first-run", "--disable-background-networking", "--disable-component-update",
            "--disable-sync", "--remote-debugging-pipe",
            f"--user-data-dir={os.path.join(person.dir, 'browser')}"],
            "prefs": {"download.default_directory": self.downloads}}
        made = self.ask("POST", "", {"capabilities": {"alwaysMatch": {"goog:chromeOptions": options}}})
        self.session = made["sessionId"]

    def ask(self, method, path, body=None):
        """One command; gives its value."""
        path = f"/session/{self.session}{path}" if self.session else "/session"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"}, method=method)
        # Not through a proxy that the environment may name.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=60) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise Failure(f"{path}: {error.read().decode()}\n{self.driver.output()}") from None

    def open(self, address):
        self.ask("POST", "/url", {"url": address})
        return self.ask("GET", "/title")

    def click(self, selector):
        found = self.ask("POST", "/element", {"using": "css selector", "value": selector})
        self.ask("POST", f"/element/{next(iter(found.values()))}/click", {})

    def close(self):
        try:
            if self.session:
                self.ask("DELETE", "")
        finally:
            self.driver.kill()
            if self in to_close:
                to_close.remove(self)


def sha256(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@scenario
def a_browser_downloads_a_large_file():
    """Chromium opens a page through the tube and downloads 128 MiB by a click; the SHA-256 is the same."""
    served = tempfile.mkdtemp(prefix="pneuma-served-", dir="/tmp")
    atexit.register(shutil.rmtree, served, True)
    with open(os.path.join(served, "index.html"), "w") as page:
        page.write(PAGE)
    with open(os.path.join(served, "large.bin"), "wb") as large:
        for _ in range(LARGE // 2 ** 20):
            large.write(os.urandom(2 ** 20))
    _, bob, door = lent("http", web_server(served), IPV4)
    browser = Browser(bob)
    assert browser.open(f"http://{door[1]}:{door[2]}/") == "Alice's files"
    begun = time.monotonic()
    browser.click("#large")
    # Until it is complete it has another name.
    at_bob = os.path.join(browser.downloads, "large.bin")
    until("the download is complete", lambda: os.path.exists(at_bob) and os.path.getsize(at_bob) == LARGE, 120,
          lambda: f"{os.listdir(browser.downloads)}\n{bob.seen()}")
    seconds = time.monotonic() - begun
    assert sha256(at_bob) == sha256(os.path.join(served, "large.bin"))
    print(f"   {LARGE // 2 ** 20} MiB in {seconds:.1f}s: {LARGE / 2 ** 20 / seconds:.0f} MiB/s")
