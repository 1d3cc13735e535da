//! A program that speaks D-Bus with as little as that takes, so that what is measured is the way and not
//! a library: messages that were made before, one `write` for each, one `read` for as many as are there.
//!
//! Each call has its number and what it asks for in front of its body. The other end answers how many it got
//! in their order since it answered last, and how many bytes; where it is asked, a sum of all bytes
//! of that call. So nothing may be lost, doubled or changed on any way.

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    time::{Duration, Instant},
};

/// The name of the one who answers, where there is a bus.
pub const ANSWERING: &str = "com.example.Bench.Answering";
/// The name of the one who asks.
pub const ASKING: &str = "com.example.Bench.Asking";
const PATH: &str = "/com/example/Bench";
const INTERFACE: &str = "com.example.Bench";
const BUS: &str = "org.freedesktop.DBus";

/// Bytes read at once, while no message is larger.
const READ: usize = 64 * 1024;
/// The fixed part of a header.
const PREFIX: usize = 16;
/// Where the serial lies, and in a reply of ours the serial of what it answers.
const SERIAL: usize = 8;
const REPLY_SERIAL: usize = 20;
/// What is in front of a body: its length, its number, whether a sum is asked for.
const LENGTH: usize = 4;
const HEAD: usize = LENGTH + 16;

const CALL: u8 = 1;
const RETURN: u8 = 2;
const ERROR: u8 = 3;
const NO_REPLY: u8 = 1;

enum Field<'a> {
    Path(&'a str),
    Text(&'a str),
    Signature(&'a str),
    Number(u32),
}

/// A message in little endian, with the serial 1.
fn marshal(kind: u8, flags: u8, fields: &[(u8, Field<'_>)], body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![b'l', kind, flags, 1];
    bytes.extend((body.len() as u32).to_le_bytes());
    bytes.extend(1_u32.to_le_bytes());
    bytes.extend(0_u32.to_le_bytes());
    for (code, field) in fields {
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        let (letter, text) = match field {
            Field::Path(text) => (b'o', *text),
            Field::Text(text) => (b's', *text),
            Field::Signature(text) => (b'g', *text),
            Field::Number(_) => (b'u', ""),
        };
        bytes.extend([*code, 1, letter, 0]);
        match field {
            Field::Number(number) => bytes.extend(number.to_le_bytes()),
            Field::Signature(_) => bytes.push(text.len() as u8),
            Field::Path(_) | Field::Text(_) => bytes.extend((text.len() as u32).to_le_bytes()),
        }
        if letter != b'u' {
            bytes.extend(text.bytes().chain([0]));
        }
    }
    let fields = (bytes.len() - PREFIX) as u32;
    bytes[12..PREFIX].copy_from_slice(&fields.to_le_bytes());
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes.extend(body);
    bytes
}

/// A method call; fields as the specification numbers them.
fn call(flags: u8, to: &str, path: &str, member: &str, signature: &str, body: &[u8]) -> Vec<u8> {
    let mut fields = vec![
        (1, Field::Path(path)),
        (2, Field::Text(if to == BUS { BUS } else { INTERFACE })),
        (3, Field::Text(member)),
        (6, Field::Text(to)),
    ];
    if !signature.is_empty() {
        fields.push((8, Field::Signature(signature)));
    }
    marshal(CALL, flags, &fields, body)
}

fn u32_at(bytes: &[u8], place: usize) -> u32 {
    u32::from_le_bytes(bytes[place..place + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], place: usize) -> u64 {
    u64::from_le_bytes(bytes[place..place + 8].try_into().expect("eight bytes"))
}

fn put(bytes: &mut [u8], place: usize, number: u64) {
    bytes[place..place + 8].copy_from_slice(&number.to_le_bytes());
}

/// A sum in which every byte and its place counts.
fn sum(bytes: &[u8]) -> u64 {
    bytes.chunks(8).fold(0, |sum: u64, part| {
        let mut word = [0; 8];
        word[..part.len()].copy_from_slice(part);
        sum.rotate_left(5)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .wrapping_add(u64::from_le_bytes(word))
    })
}

/// A message that has come.
struct Message<'a> {
    kind: u8,
    wants_reply: bool,
    serial: u32,
    body: &'a [u8],
}

/// One end of a connection.
pub struct Connection {
    stream: UnixStream,
    buffer: Vec<u8>,
    start: usize,
    end: usize,
}

impl Connection {
    /// Connects to a path, authenticates and begins.
    pub fn connect(path: &str) -> io::Result<Self> {
        let mut this = Self::new(UnixStream::connect(path)?);
        let user = rustix::process::geteuid().as_raw().to_string();
        let digits: String = user.bytes().map(|byte| format!("{byte:02x}")).collect();
        this.send(format!("\0AUTH EXTERNAL {digits}\r\n").as_bytes())?;
        let answer = this.line()?;
        if !answer.starts_with("OK ") {
            return Err(io::Error::other(answer));
        }
        this.send(b"BEGIN\r\n")?;
        Ok(this)
    }

    /// Lets somebody in who is to be trusted.
    pub fn welcome(stream: UnixStream) -> io::Result<Self> {
        let mut this = Self::new(stream);
        while this.line()? != "BEGIN" {
            this.send(b"OK 0123456789abcdef0123456789abcdef\r\n")?;
        }
        Ok(this)
    }

    fn new(stream: UnixStream) -> Self {
        Connection {
            stream,
            buffer: vec![0; READ],
            start: 0,
            end: 0,
        }
    }

    /// Says Hello to a bus and has this name from then on.
    pub fn join_bus(&mut self, name: &str) -> io::Result<()> {
        let mut body = (name.len() as u32).to_le_bytes().to_vec();
        body.extend(name.bytes().chain([0]));
        body.resize(body.len().next_multiple_of(4), 0);
        body.extend(0_u32.to_le_bytes());
        for (member, signature, body) in [("Hello", "", &[][..]), ("RequestName", "su", &body)] {
            let asked = call(0, BUS, "/org/freedesktop/DBus", member, signature, body);
            self.send(&asked)?;
            while self.receive()?.ok_or_else(ended)?.kind != RETURN {}
        }
        Ok(())
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Reads some more; nothing at the end.
    fn fill(&mut self) -> io::Result<Option<()>> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.end == self.buffer.len() {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let count = self.stream.read(&mut self.buffer[self.end..])?;
        self.end += count;
        Ok((count > 0).then_some(()))
    }

    fn line(&mut self) -> io::Result<String> {
        loop {
            let come = &self.buffer[self.start..self.end];
            if let Some(length) = come.windows(2).position(|two| two == b"\r\n") {
                let line = String::from_utf8_lossy(&come[..length]).into_owned();
                self.start += length + 2;
                return Ok(line);
            }
            self.fill()?.ok_or_else(ended)?;
        }
    }

    /// The next message; nothing at the end.
    fn receive(&mut self) -> io::Result<Option<Message<'_>>> {
        let (length, body) = loop {
            let come = &self.buffer[self.start..self.end];
            if come.len() >= PREFIX {
                let body = (PREFIX + u32_at(come, 12) as usize).next_multiple_of(8);
                let length = body + u32_at(come, 4) as usize;
                if come.len() >= length {
                    break (length, body);
                }
                if length > self.buffer.len() {
                    self.buffer.resize(length, 0);
                }
            }
            if self.fill()?.is_none() {
                return Ok(None);
            }
        };
        let message = &self.buffer[self.start..self.start + length];
        self.start += length;
        if message[1] == ERROR {
            let text = String::from_utf8_lossy(message).into_owned();
            return Err(io::Error::other(text));
        }
        Ok(Some(Message {
            kind: message[1],
            wants_reply: message[2] & NO_REPLY == 0,
            serial: u32_at(message, SERIAL),
            body: &message[body..],
        }))
    }

    /// Answers whoever asks, to the end.
    pub fn answer(&mut self) -> io::Result<()> {
        let fields = [
            (5, Field::Number(0)),
            (6, Field::Text(ASKING)),
            (8, Field::Signature("ay")),
        ];
        let mut answer = marshal(RETURN, NO_REPLY, &fields, &array(&[0; 32]));
        let place = answer.len() - 32;
        let (mut next, mut came, mut bytes, mut serial) = (0, 0, 0, 0_u32);
        while let Some(message) = self.receive()? {
            if message.kind != CALL {
                continue;
            }
            let number = u64_at(message.body, LENGTH);
            if number == next {
                came += 1;
                bytes += message.body.len() as u64;
            }
            next = number + 1;
            if !message.wants_reply {
                continue;
            }
            let sum_is_asked_for = u64_at(message.body, LENGTH + 8) != 0;
            let sum = if sum_is_asked_for {
                sum(&message.body[HEAD..])
            } else {
                0
            };
            serial = serial.wrapping_add(1).max(1);
            answer[SERIAL..SERIAL + 4].copy_from_slice(&serial.to_le_bytes());
            answer[REPLY_SERIAL..REPLY_SERIAL + 4].copy_from_slice(&message.serial.to_le_bytes());
            for (index, word) in [number, came, bytes, sum].into_iter().enumerate() {
                put(&mut answer, place + 8 * index, word);
            }
            (came, bytes) = (0, 0);
            self.send(&answer)?;
        }
        Ok(())
    }
}

fn ended() -> io::Error {
    io::ErrorKind::UnexpectedEof.into()
}

/// An array of bytes as a body.
fn array(bytes: &[u8]) -> Vec<u8> {
    let mut body = (bytes.len() as u32).to_le_bytes().to_vec();
    body.extend(bytes);
    body
}

/// A call that is sent again and again, each time with its own number.
struct Ready {
    bytes: Vec<u8>,
    body: usize,
}

impl Ready {
    /// With an array of so many bytes, which nothing compresses behind what is in front.
    fn new(flags: u8, size: usize) -> Self {
        let mut bytes = vec![0; HEAD - LENGTH];
        let mut noise = 0x9e37_79b9_7f4a_7c15_u64;
        bytes.extend((bytes.len()..size).map(|_| {
            noise ^= noise << 13;
            noise ^= noise >> 7;
            noise ^= noise << 17;
            noise as u8
        }));
        let body = array(&bytes);
        let bytes = call(flags, ANSWERING, PATH, "Take", "ay", &body);
        Ready {
            body: bytes.len() - body.len(),
            bytes,
        }
    }

    fn numbered(&mut self, number: u64) -> &[u8] {
        let serial = (number as u32).wrapping_add(1).max(1);
        self.bytes[SERIAL..SERIAL + 4].copy_from_slice(&serial.to_le_bytes());
        put(&mut self.bytes, self.body + LENGTH, number);
        &self.bytes
    }

    fn sum_is_asked_for(&mut self) {
        put(&mut self.bytes, self.body + LENGTH + 8, 1);
    }

    fn body_bytes(&self) -> u64 {
        (self.bytes.len() - self.body) as u64
    }
}

/// The one who asks, and takes the time.
pub struct Asker {
    connection: Connection,
    /// The number of the next call.
    next: u64,
    small: Ready,
    small_one_way: Ready,
}

/// Bytes in a small message.
const SMALL: usize = 64;

impl Asker {
    /// Over this connection, at whose other end somebody answers.
    pub fn new(connection: Connection) -> Self {
        Asker {
            connection,
            next: 0,
            small: Ready::new(0, SMALL),
            small_one_way: Ready::new(NO_REPLY, SMALL),
        }
    }

    /// How many bytes a small call has on the wire.
    pub fn small_bytes(&self) -> usize {
        self.small.bytes.len()
    }

    /// Waits for an answer, and whether it says that so much came. Gives the sum.
    fn answered(&mut self, number: u64, calls: u64, bytes: u64) -> io::Result<u64> {
        loop {
            let message = self.connection.receive()?.ok_or_else(ended)?;
            if message.kind != RETURN {
                continue;
            }
            let word = |index: usize| u64_at(message.body, LENGTH + 8 * index);
            let (came, sent) = ([word(0), word(1), word(2)], [number, calls, bytes]);
            if came != sent {
                let text = format!("number, calls and bytes were {sent:?}, and came as {came:?}");
                return Err(io::Error::other(text));
            }
            return Ok(word(3));
        }
    }

    /// Asks and waits, so many times; how long each took.
    pub fn round_trips(&mut self, many: usize) -> io::Result<Vec<Duration>> {
        let mut taken = Vec::with_capacity(many);
        let bytes = self.small.body_bytes();
        for _ in 0..many {
            let (started, number) = (Instant::now(), self.next);
            self.next += 1;
            self.connection.send(self.small.numbered(number))?;
            self.answered(number, 1, bytes)?;
            taken.push(started.elapsed());
        }
        Ok(taken)
    }

    /// Asks so many times, and waits only while so many answers are under way.
    pub fn in_flight(&mut self, many: usize, window: usize) -> io::Result<Duration> {
        let (started, first) = (Instant::now(), self.next);
        let bytes = self.small.body_bytes();
        for number in first..first + (many + window) as u64 {
            if number < first + many as u64 {
                self.connection.send(self.small.numbered(number))?;
                self.next += 1;
            }
            if let Some(earlier) = number.checked_sub(window as u64)
                && earlier >= first
            {
                self.answered(earlier, 1, bytes)?;
            }
        }
        Ok(started.elapsed())
    }

    /// Sends small calls that want no answer, and then one that wants one: until all have arrived.
    pub fn one_way(&mut self, many: usize) -> io::Result<Duration> {
        let started = Instant::now();
        let bytes = self.small_one_way.body_bytes();
        for _ in 0..many {
            let message = self.small_one_way.numbered(self.next);
            self.next += 1;
            self.connection.send(message)?;
        }
        self.arrived(many, bytes)?;
        Ok(started.elapsed())
    }

    /// The same with so many bytes in each; and then, while no time is taken, one whose bytes are compared.
    pub fn large(&mut self, many: usize, size: usize) -> io::Result<Duration> {
        let mut message = Ready::new(NO_REPLY, size);
        let started = Instant::now();
        for _ in 0..many {
            self.connection.send(message.numbered(self.next))?;
            self.next += 1;
        }
        self.arrived(many, message.body_bytes())?;
        let taken = started.elapsed();

        let mut message = Ready::new(0, size);
        message.sum_is_asked_for();
        let number = self.next;
        self.next += 1;
        self.connection.send(message.numbered(number))?;
        let theirs = self.answered(number, 1, message.body_bytes())?;
        if theirs != sum(&message.bytes[message.body + HEAD..]) {
            return Err(io::Error::other("what arrived is not what was sent"));
        }
        Ok(taken)
    }

    fn arrived(&mut self, many: usize, bytes: u64) -> io::Result<()> {
        let number = self.next;
        self.next += 1;
        self.connection.send(self.small.numbered(number))?;
        let all = many as u64 * bytes + self.small.body_bytes();
        self.answered(number, many as u64 + 1, all)?;
        Ok(())
    }
}
