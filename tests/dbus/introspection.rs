//! What introspection says of each object, kept as files beside this one: a change shows as a
//! difference that somebody has to mean. `PNEUMA_ACCEPT=1` writes them anew.

use std::path::Path;

use support::{CM_PATH, dbus_tube_request};

use crate::{
    fake::{capable, takes_files},
    world::World,
};

/// The object's own Telepathy interfaces, member by member, sorted. What the library adds
/// (Properties, Peer, Introspectable) and children are left out.
fn members(xml: &str) -> String {
    let mut interfaces: Vec<String> = Vec::new();
    let (mut inside, mut depth) = (false, 0);
    for line in xml.lines().map(str::trim) {
        if line.starts_with("<node") && !line.ends_with("/>") {
            depth += 1;
        }
        if line == "</node>" {
            depth -= 1;
        }
        if depth == 1 && line.starts_with("<interface ") {
            inside = line.contains("org.freedesktop.Telepathy");
            if inside {
                interfaces.push(String::new());
            }
        }
        if inside && let Some(interface) = interfaces.last_mut() {
            interface.push_str(line);
            interface.push('\n');
        }
        if line == "</interface>" {
            inside = false;
        }
    }
    interfaces.sort();
    interfaces.concat()
}

fn compare(name: &str, xml: &str) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/dbus/introspection")
        .join(format!("{name}.xml"));
    let now = members(xml);
    if std::env::var_os("PNEUMA_ACCEPT").is_some() {
        std::fs::write(&file, &now).unwrap();
    }
    let kept = std::fs::read_to_string(&file).unwrap_or_default();
    let missing: Vec<&str> = kept.lines().filter(|line| !now.contains(line)).collect();
    let new: Vec<&str> = now.lines().filter(|line| !kept.contains(line)).collect();
    assert!(
        now == kept,
        "{name} is not what {} says; missing: {missing:#?}, new: {new:#?}",
        file.display()
    );
}

#[test]
fn every_object_is_what_it_was() {
    let world = World::new();
    let account = world.online(vec![capable("bob@there"), takes_files("carol@there")]);
    let (channel, _) = account.create(account.handle("bob@there"), "http").unwrap();
    compare("connection_manager", &world.introspect(CM_PATH).unwrap());
    compare(
        "protocol",
        &world.introspect(&format!("{CM_PATH}/local_xmpp")).unwrap(),
    );
    compare("connection", &world.introspect(&account.path).unwrap());
    compare("stream_tube", &world.introspect(&channel).unwrap());
    let request = dbus_tube_request(account.handle("bob@there"), "com.example.Chess");
    let (channel, _) = account.created(request).unwrap();
    compare("dbus_tube", &world.introspect(&channel).unwrap());
    let request = account.file_request(account.handle("carol@there"), 5);
    let (channel, _) = account.send_file(request);
    compare("file_transfer", &world.introspect(&channel).unwrap());
}
