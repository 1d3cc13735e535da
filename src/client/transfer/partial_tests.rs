//! Files that arrive, and every place where that can break.

use std::{fs, io::Write as _, time::SystemTime};

use super::*;

const KEY: &str = "aabb";

struct Home {
    folder: tempfile::TempDir,
    records: Records,
}

impl Home {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().join("state");
        let records = Records::at(&state, SystemTime::UNIX_EPOCH).unwrap();
        fs::create_dir(folder.path().join("in")).unwrap();
        Home { folder, records }
    }

    fn target(&self) -> Target {
        Target::open(&self.folder.path().join("in")).unwrap()
    }

    fn begin(&self, offer: &Offer) -> Partial {
        Partial::begin(self.target(), offer, Some(KEY), &self.records).unwrap()
    }

    fn resume(&self, offer: &Offer) -> Option<Partial> {
        Partial::resume(&self.records, KEY, offer.id.unwrap()).unwrap()
    }

    /// What is in the folder, by name.
    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.folder.path().join("in"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// How many records there are of what has not ended.
    fn records(&self) -> usize {
        let names = fs::read_dir(self.records.folder()).unwrap();
        names
            .filter(|entry| {
                let name = entry.as_ref().unwrap().file_name();
                !name.to_string_lossy().starts_with("done-")
            })
            .count()
    }

    fn arrived(&self, offer: &Offer) -> Option<u64> {
        self.records.arrived(KEY, offer.id.unwrap())
    }
}

fn id_of(bytes: [u8; 16]) -> TransferId {
    actors::model::BytestreamId(bytes)
}

fn offer(size: u64) -> Offer {
    Offer {
        name: "a.txt".into(),
        content_type: String::new(),
        size: Some(size),
        modified: Some(1_000_000_000),
        mode: Some(0o4755),
        shape: Shape::File,
        id: Some(id_of([7; 16])),
    }
}

fn write(partial: &Partial, at: u64, bytes: &[u8]) {
    partial.file().write_all_at(bytes, at).unwrap();
}

#[test]
fn a_file_arrives_with_its_mode_and_date() {
    let home = Home::new();
    let mut partial = home.begin(&offer(5));
    assert_eq!(home.names(), ["a.txt.part"]);
    partial.begin_at(0).unwrap();
    write(&partial, 0, b"hello");
    partial.sync(5).unwrap();
    partial.verified(5).unwrap();
    let finished = partial.finish().unwrap();
    assert_eq!(finished.path, home.folder.path().join("in/a.txt"));
    assert_eq!(fs::read(&finished.path).unwrap(), b"hello");
    let metadata = fs::metadata(&finished.path).unwrap();
    assert_eq!(metadata.mode() & 0o7777, 0o755 & !umask());
    assert_eq!(metadata.mtime(), 1_000_000_000);
    assert_eq!((home.names(), home.records()), (vec!["a.txt".into()], 0));
}

#[test]
fn nothing_has_its_name_before_it_is_verified_wherever_it_breaks() {
    let home = Home::new();
    // What a crash leaves behind is what is there when everything is dropped.
    let mut partial = home.begin(&offer(10));
    drop(partial);
    assert_eq!(home.names(), ["a.txt.part"]);
    partial = home.resume(&offer(10)).expect("it has begun");
    assert_eq!(partial.prefix().unwrap(), Resume::default());
    partial.begin_at(0).unwrap();
    write(&partial, 0, b"half ");
    drop(partial);
    // Not synced, but written: the machine has not stopped.
    partial = home.resume(&offer(10)).expect("it goes on");
    let prefix = partial.prefix().unwrap();
    let expected: [u8; 32] = Sha256::digest(b"half ").into();
    assert_eq!(prefix.offset, 5);
    assert_eq!(prefix.stored, Some(Sha256Digest(expected)));
    partial.begin_at(5).unwrap();
    write(&partial, 5, b"whole");
    partial.sync(10).unwrap();
    drop(partial);
    assert_eq!(home.names(), ["a.txt.part"]);
    partial = home.resume(&offer(10)).expect("it goes on");
    assert_eq!(partial.length().unwrap(), 10);
    assert_eq!(
        partial.clone().finish().unwrap_err().kind,
        Kind::InvalidArgument
    );
    assert!(Partial::unfinished(&home.records).is_empty());
    partial.begin_at(10).unwrap();
    partial.verified(10).unwrap();
    drop(partial);
    // Verified, and then we were killed.
    let mut found = Partial::unfinished(&home.records);
    let finished = found.pop().expect("it is whole").finish().unwrap();
    assert_eq!(fs::read(finished.path).unwrap(), b"half whole");
    assert_eq!((home.names(), home.records()), (vec!["a.txt".into()], 0));
}

#[test]
fn what_has_arrived_stays_known_wherever_we_were_killed() {
    let home = Home::new();
    let offer = offer(3);
    let partial = home.begin(&offer);
    write(&partial, 0, b"abc");
    let mut partial = partial;
    partial.sync(3).unwrap();
    assert_eq!(home.arrived(&offer), None, "stored is not verified");
    partial.verified(3).unwrap();
    assert!(partial.is_verified());
    // Named, and killed before that was written down: the record's file is where nobody looks for it.
    let record = fs::read_dir(home.records.folder()).unwrap().next();
    let record = record.unwrap().unwrap().path();
    let before = fs::read(&record).unwrap();
    let finished = partial.finish().unwrap();
    assert_eq!(home.arrived(&offer), Some(3));
    assert_eq!(home.records(), 0);
    for entry in fs::read_dir(home.records.folder()).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    fs::write(&record, before).unwrap();
    assert!(home.resume(&offer).is_none());
    assert_eq!(home.arrived(&offer), Some(3));
    assert!(Partial::unfinished(&home.records).is_empty());
    assert_eq!(home.names(), ["a.txt"]);
    drop(finished);
    // Of this contact, and under this id.
    let id = offer.id.unwrap();
    assert_eq!(home.records.arrived("other", id), None);
    home.records.forget_arrived(KEY, id);
    assert_eq!(home.arrived(&offer), None);
}

#[test]
fn after_the_machine_stopped_only_what_was_synced_counts() {
    let home = Home::new();
    let mut partial = home.begin(&offer(10));
    partial.begin_at(0).unwrap();
    write(&partial, 0, b"123");
    partial.sync(3).unwrap();
    write(&partial, 3, b"4567");
    partial.record.boot = "another run".into();
    partial.keep().unwrap();
    drop(partial);
    let mut partial = home.resume(&offer(10)).expect("it has begun");
    assert_eq!(partial.length().unwrap(), 3);
    partial.begin_at(3).unwrap();
    drop(partial);
    let partial = home.resume(&offer(10)).expect("it goes on");
    assert_eq!(partial.length().unwrap(), 3);
    assert_eq!(fs::read(partial.place()).unwrap(), b"123");
}

#[test]
fn only_the_very_file_is_gone_on_with_and_by_one_alone() {
    let home = Home::new();
    let mut partial = home.begin(&offer(10));
    partial.begin_at(0).unwrap();
    write(&partial, 0, b"123");
    let other = Partial::resume(&home.records, KEY, id_of([7; 16]));
    assert_eq!(other.unwrap_err().kind, Kind::NotYours);
    assert!(partial.begin_at(4).is_err());
    assert!(partial.fits(&offer(10)) && !partial.fits(&offer(11)));
    let place = partial.place();
    drop(partial);
    let none = Partial::resume(&home.records, "another key", id_of([7; 16]));
    assert!(none.unwrap().is_none());
    // Another file under its name, or a link to one, is not it.
    fs::rename(&place, home.folder.path().join("in/moved")).unwrap();
    assert!(home.resume(&offer(10)).is_none());
    fs::File::create(&place)
        .unwrap()
        .write_all(b"12345")
        .unwrap();
    assert!(home.resume(&offer(10)).is_none());
    fs::remove_file(&place).unwrap();
    std::os::unix::fs::symlink("moved", &place).unwrap();
    assert!(home.resume(&offer(10)).is_none());
    // It begins anew beside what is there.
    let anew = home.begin(&offer(10));
    assert!(anew.place().ends_with("a (2).txt.part"));
}

#[test]
fn what_cannot_be_resumed_is_not_left_behind() {
    let home = Home::new();
    let nameless = Offer {
        id: None,
        ..offer(3)
    };
    let partial = Partial::begin(home.target(), &nameless, Some(KEY), &home.records).unwrap();
    assert!(!partial.lasts());
    partial.leave();
    let partial = Partial::begin(home.target(), &offer(3), None, &home.records).unwrap();
    partial.leave();
    assert_eq!((home.names().len(), home.records()), (0, 0));
    home.begin(&offer(3)).leave();
    assert_eq!((home.names().len(), home.records()), (1, 1));
    home.resume(&offer(3)).expect("it has begun").discard();
    assert_eq!((home.names().len(), home.records()), (0, 0));
}
