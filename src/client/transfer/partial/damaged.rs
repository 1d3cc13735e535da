//! Files that arrived too short and folders that are none.

use std::{fs, time::SystemTime};

use super::*;

/// Something of 600 bytes, of which so many have come.
fn partial(home: &tempfile::TempDir, shape: Shape, bytes: &[u8]) -> (Partial, Records) {
    let records = Records::at(&home.path().join("state"), SystemTime::UNIX_EPOCH).unwrap();
    fs::create_dir(home.path().join("in")).unwrap();
    let target = Target::open(&home.path().join("in")).unwrap();
    let offer = Offer {
        name: "tree.tar".into(),
        content_type: String::new(),
        size: Some(600),
        modified: None,
        mode: None,
        shape,
        id: Some(actors::model::BytestreamId([7; 16])),
    };
    let mut partial = Partial::begin(target, &offer, Some("aabb"), &records).unwrap();
    partial.begin_at(0).unwrap();
    partial.file().write_all_at(bytes, 0).unwrap();
    (partial, records)
}

#[test]
fn what_is_shorter_than_was_said_gets_no_name() {
    let home = tempfile::tempdir().unwrap();
    let (mut partial, _records) = partial(&home, Shape::File, &[7; 599]);
    assert_eq!(
        partial.verified(599).unwrap_err().kind,
        Kind::ConnectionLost
    );
    assert_eq!(partial.length().unwrap(), 599);
    assert_eq!(partial.finish().unwrap_err().kind, Kind::InvalidArgument);
    assert!(home.path().join("in/tree.tar.part").exists());
}

#[test]
fn a_folder_that_is_none_is_kept_as_the_archive_that_came() {
    let home = tempfile::tempdir().unwrap();
    let (mut partial, records) = partial(&home, Shape::Folder, &[7; 600]);
    partial.verified(600).unwrap();
    fs::write(home.path().join("in/tree.tar"), "mine").unwrap();
    let error = partial.finish().unwrap_err();
    assert_eq!(error.kind, Kind::BadAnswer);
    let kept = home.path().join("in/tree (2).tar");
    let said = format!("; its archive is kept as {}", kept.display());
    assert!(error.message.ends_with(&said), "{error}");
    assert_eq!(fs::read(kept).unwrap(), [7; 600]);
    // Nothing else is left, and it is not tried for ever.
    let left = fs::read_dir(home.path().join("in")).unwrap().count();
    assert_eq!((left, records.all_receiving().len()), (2, 0));
    let id = actors::model::BytestreamId([7; 16]);
    assert_eq!(records.arrived("aabb", id), Some(600));
}
