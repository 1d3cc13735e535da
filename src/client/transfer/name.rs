//! The name of a file that came from a contact, made safe for a folder of ours. Whoever sends it can
//! write anything: `../.ssh/authorized_keys`, a line feed, characters that turn the rest around.
//!
//! What is not right is replaced and never refused, so that a file with a name that only its sender's
//! system takes arrives all the same; [`SafeName::changed`] says so, and the user is told.

use crate::plain::shows_as_itself;

/// Most bytes a name may have: the 255 that file systems take, less what is put behind it meanwhile or
/// for good (` (9999)`, `.part`).
const MOST_BYTES: usize = 240;
/// Most bytes of a name that is too long that are kept at its end, for what kind of file it is.
const MOST_ENDING: usize = 20;
/// What a file is called that has no name.
const NAMELESS: &str = "file";

/// A name that is one file's in one folder, not hidden, and looks like what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SafeName {
    name: String,
    changed: bool,
}

impl SafeName {
    /// The name, made safe.
    pub fn of(given: &str) -> Self {
        let mut name = plain(given.trim());
        // Hidden, a folder's own or its parent's, or an option to whatever is called with it.
        if name.starts_with(['.', '-']) {
            name.insert(0, '_');
        }
        if name.is_empty() {
            name = NAMELESS.to_owned();
        }
        let name = shortened(name, MOST_BYTES);
        SafeName {
            changed: name != given,
            name,
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.name
    }

    /// Whether it is another than the one that was given.
    pub fn changed(&self) -> bool {
        self.changed
    }

    /// The same with the folder's ending of an archive taken off.
    pub fn without_tar(&self) -> Self {
        match self.name.strip_suffix(".tar") {
            Some(name) if !name.is_empty() => SafeName {
                name: name.to_owned(),
                changed: self.changed,
            },
            _ => self.clone(),
        }
    }

    /// The name for the `number`th file of this name, from 1 on: `name.ext`, `name (2).ext`.
    pub fn numbered(&self, number: u32) -> String {
        if number <= 1 {
            return self.name.clone();
        }
        let (stem, ending) = parts(&self.name);
        format!("{stem} ({number}){ending}")
    }
}

/// One part of a path below a folder that was sent: what is inside keeps its name, hidden or not.
pub fn safe_component(given: &str) -> Option<String> {
    if matches!(given, "" | "." | "..") {
        return None;
    }
    Some(shortened(plain(given), MOST_BYTES))
}

/// Everything that separates paths, controls a terminal or does not show as itself, replaced.
pub fn plain(given: &str) -> String {
    given
        .chars()
        .map(|c| match c {
            '/' => '_',
            c if shows_as_itself(c) => c,
            _ => '_',
        })
        .collect()
}

/// Cut in its middle, so that its ending stays.
fn shortened(name: String, most: usize) -> String {
    if name.len() <= most {
        return name;
    }
    let (_, ending) = parts(&name);
    let ending = if ending.len() > MOST_ENDING {
        ""
    } else {
        ending
    };
    let mut at = most - ending.len();
    while !name.is_char_boundary(at) {
        at -= 1;
    }
    format!("{}{ending}", name[..at].trim_end())
}

/// A name without its ending, and the ending with its dot: `.tar.gz` is one.
fn parts(name: &str) -> (&str, &str) {
    let cut = |name: &str| name.rfind('.').filter(|at| *at > 0);
    let Some(mut at) = cut(name) else {
        return (name, "");
    };
    if let Some(before) = cut(&name[..at])
        && name[before..at] == *".tar"
    {
        at = before;
    }
    name.split_at(at)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_could_do_harm_is_replaced_and_told() {
        for (given, name) in [
            ("../../.ssh/authorized_keys", "_.._.._.ssh_authorized_keys"),
            ("/etc/passwd", "_etc_passwd"),
            ("..", "_.."),
            (".", "_."),
            ("", "file"),
            ("   ", "file"),
            (".bashrc", "_.bashrc"),
            ("-rf", "_-rf"),
            ("a\nb\0c", "a_b_c"),
            ("photo\u{202e}gpj.exe", "photo_gpj.exe"),
            ("a\x1b[2Jb", "a_[2Jb"),
            (" a ", "a"),
        ] {
            let safe = SafeName::of(given);
            assert_eq!((safe.as_str(), safe.changed()), (name, true), "{given:?}");
        }
        for given in ["a", "Bob Ünlü 李.tar.gz", "a (2).txt", "..."] {
            let safe = SafeName::of(given);
            assert_eq!(safe.changed(), given == "...", "{given}");
        }
    }

    #[test]
    fn a_long_name_keeps_its_ending() {
        let name = SafeName::of(&format!("{}.jpeg", "é".repeat(200)));
        assert!(name.as_str().len() <= MOST_BYTES && name.as_str().ends_with("é.jpeg"));
        let name = SafeName::of(&format!("a.{}", "b".repeat(300)));
        assert_eq!(name.as_str().len(), MOST_BYTES);
    }

    #[test]
    fn numbers_come_before_the_ending() {
        let numbered = |name, number| SafeName::of(name).numbered(number);
        assert_eq!(numbered("a.txt", 1), "a.txt");
        assert_eq!(numbered("a.txt", 2), "a (2).txt");
        assert_eq!(numbered("a.tar.gz", 3), "a (3).tar.gz");
        assert_eq!(numbered("a", 2), "a (2)");
        assert_eq!(SafeName::of("tree.tar").without_tar().as_str(), "tree");
        assert_eq!(SafeName::of("tree").without_tar().as_str(), "tree");
    }

    proptest! {
        #[test]
        fn every_name_is_one_file_s_in_one_folder(given in ".*") {
            let safe = SafeName::of(&given);
            let name = safe.as_str();
            prop_assert!(!name.is_empty() && name.len() <= MOST_BYTES);
            prop_assert!(!name.contains(['/', '\0']) && !name.starts_with(['.', '-']));
            prop_assert!(name.chars().all(shows_as_itself));
            prop_assert!(safe.numbered(9999).len() + ".part".len() <= 255);
            // Made safe once, it stays as it is.
            let again = SafeName::of(name);
            prop_assert_eq!(again.as_str(), name);
            prop_assert!(!again.changed());
            if let Some(part) = safe_component(&given) {
                prop_assert!(part.len() <= 255 && !part.contains(['/', '\0']));
                prop_assert!(part != "." && part != "..");
            }
        }
    }
}
