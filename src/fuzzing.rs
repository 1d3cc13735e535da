//! What strangers' bytes reach first, with what must hold for any bytes at all: for cargo-fuzz.
//!
//! Here only with the feature `fuzzing`, which the crate in `fuzz/` turns on, and in this crate's own
//! tests, which run what cargo-fuzz has found worth keeping (`fuzz/corpus`). Each function takes one
//! input, does with it what a connection manager does, and panics where something does not hold. It
//! stands beside the code it is about, which so stays private.
//!
//! | target | what holds beyond "no panic" |
//! | --- | --- |
//! | [`xml`] | any chunks give the same; what was read is written and read back; no tree is larger than its bytes |
//! | [`stream`] | any chunks give the same; what it writes is XML; no stanza without TLS where TLS is required |
//! | [`stanza`] | each payload that is read is written and read back |
//! | [`socks5_client`], [`socks5_server`] | any chunks give the same; nothing after the handshake is swallowed; who gets in is who a second reading of RFC 1928 lets in |
//! | [`ibb`] | bytes come out as they went in, blocks are numbered and as large as agreed, nothing beyond its bounds waits |
//! | [`txt`] | what is shown is short and harmless; what was read is written and read back |
//! | [`dbus_messages`] | any chunks give the same; what goes through is by a second reading whole messages without descriptors; an error is for good |
//! | [`dbus_handshake`] | any chunks give the same; who gets in is who a second reading lets in; descriptors are not agreed to, nothing after BEGIN is swallowed |
//! | [`dbus_carrying`] | whole messages of applications that come and go arrive in order, each application begins with one; nothing beyond its bounds waits |
//! | [`sharing`] | what goes on to a bus or a client is by a second reading what was let through, word for word |

pub use actors::dbus_tube::{
    carrying::fuzzing::dbus_carrying, handshake::fuzzing::dbus_handshake,
    splitter::fuzzing::dbus_messages,
};

pub use crate::{
    client::sharing::fuzzing::sharing,
    session::{
        bytestreams::{
            fuzzing::{socks5_client, socks5_server},
            ibb::fuzzing::ibb,
        },
        link_local::discovery::fuzzing::txt,
    },
    xmpp::fuzzing::{stanza, stream, xml},
};

/// Takes one input.
pub type Target = fn(&[u8]);

/// Every target by its name, which its file in `fuzz/fuzz_targets` and its corpus have too.
pub const TARGETS: [(&str, Target); 11] = [
    ("xml", xml),
    ("stream", stream),
    ("stanza", stanza),
    ("socks5_client", socks5_client),
    ("socks5_server", socks5_server),
    ("ibb", ibb),
    ("txt", txt),
    ("sharing", sharing),
    ("dbus_messages", dbus_messages),
    ("dbus_handshake", dbus_handshake),
    ("dbus_carrying", dbus_carrying),
];

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeSet,
        fs,
        path::{Path, PathBuf},
    };

    use super::*;

    /// Most bytes all corpora may have together: everybody clones them.
    const MOST_BYTES: usize = 512 * 1024;

    fn folder(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("fuzz")
            .join(name)
    }

    fn names(folder: &Path) -> BTreeSet<String> {
        fs::read_dir(folder)
            .expect("a folder of the fuzz crate")
            .map(|entry| entry.expect("an entry").path())
            .filter_map(|path| Some(path.file_stem()?.to_str()?.to_owned()))
            .collect()
    }

    #[test]
    fn every_target_has_a_program_and_a_corpus() {
        let targets: BTreeSet<String> =
            TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
        assert_eq!(names(&folder("fuzz_targets")), targets);
        assert_eq!(names(&folder("corpus")), targets);
        // Nothing compiles that crate every day, so it holds nothing that could stop compiling.
        let manifest = fs::read_to_string(folder("Cargo.toml")).expect("the manifest");
        for name in &targets {
            let path = format!("fuzz_targets/{name}.rs");
            let program = fs::read_to_string(folder(&path)).expect("a program");
            let call = format!(
                "libfuzzer_sys::fuzz_target!(|data: &[u8]| pneuma::fuzzing::{name}(data));"
            );
            assert!(
                program.ends_with(&format!("#![no_main]\n\n{call}\n")),
                "{program}"
            );
            let bin = format!("name = \"{name}\"\npath = \"{path}\"\n");
            assert!(manifest.contains(&bin), "{name} is not in fuzz/Cargo.toml");
        }
    }

    #[test]
    fn everything_holds_for_the_whole_corpus() {
        let mut bytes = 0;
        for (name, target) in TARGETS {
            let corpus = folder("corpus").join(name);
            let inputs = names(&corpus);
            assert!(
                inputs.len() >= 10,
                "the corpus of {name} is not worth its name"
            );
            for input in inputs {
                // Shown when the target panics.
                println!("{name}: {input}");
                let input = fs::read(corpus.join(input)).expect("an input");
                bytes += input.len();
                target(&input);
            }
        }
        assert!(bytes <= MOST_BYTES, "{bytes} bytes: run `cargo fuzz cmin`");
    }
}
