//! What the service says, on the bus: `Debug`, and the levels. The service is a process of its own,
//! since a process has one log.

use support::{CM_NAME, PATIENCE, Person, World, service};
use zbus::Variant;

const PATH: &str = "/org/freedesktop/Telepathy/debug";
const DEBUG: &str = "org.freedesktop.Telepathy.Debug";
const LEVELS: &str = "org.freedesktop.Telepathy.Debug.Interface.Pneuma.Levels1";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";

type Message = (f64, String, u32, String);

struct Viewer(Person);

impl Viewer {
    fn new() -> Self {
        Viewer(Person::new(&World::new(), "alice", service!()))
    }

    fn set(&self, interface: &str, property: &str, value: Variant<'_>) -> Result<(), String> {
        let answer = self
            .0
            .on_object(PATH, PROPERTIES, "Set", &(interface, property, value));
        answer.map(drop).map_err(|error| error.short().to_owned())
    }

    fn get(&self, interface: &str, property: &str) -> zbus::OwnedVariant {
        self.0.property(PATH, interface, property).unwrap()
    }

    fn messages(&self) -> Vec<Message> {
        let answer = self.0.on_object(PATH, DEBUG, "GetMessages", &()).unwrap();
        answer.body().deserialize().unwrap()
    }

    /// The next message that clients are told of.
    fn told(&self, part: &str) -> Message {
        let found = self.0.events().take(PATIENCE, |event| {
            let message: Message = (event.member == "NewDebugMessage")
                .then(|| event.arguments())
                .flatten()?;
            message.3.contains(part).then_some(message)
        });
        found.unwrap_or_else(|seen| panic!("no message with '{part}': {seen}"))
    }
}

#[test]
fn messages_are_kept_and_told_once_somebody_wants_them() {
    let viewer = Viewer::new();
    let serving = |messages: &[Message]| {
        messages.iter().any(|(time, domain, level, text)| {
            *time > 1.7e9
                && domain == "pneuma/dbus"
                && *level == 4
                && text == &format!("serving name={CM_NAME}")
        })
    };
    // It has its name a moment before it says so.
    let kept = viewer.0.until("it says that it serves", || {
        let kept = viewer.messages();
        serving(&kept).then_some(kept)
    });
    assert!(kept.iter().all(|message| message.2 <= 4), "no Debug yet");
    assert_eq!(
        viewer.get(DEBUG, "Enabled"),
        Variant::from(false).try_into_owned().unwrap()
    );

    viewer.set(DEBUG, "Enabled", true.into()).unwrap();
    viewer.0.go_online();
    viewer.set(LEVELS, "Levels", "warn".into()).unwrap();
    let (_, domain, level, _) = viewer.told("other levels");
    assert_eq!((domain.as_str(), level), ("pneuma/dbus", 4));
    let (_, domain, level, _) = viewer.told("another status");
    assert_eq!((domain.as_str(), level), ("pneuma/dbus", 5));
    let kept = viewer.messages();
    assert!(kept.iter().any(|message| message.2 == 5), "{kept:?}");

    // Off again, what follows is neither told nor, below the levels, kept.
    viewer.set(DEBUG, "Enabled", false.into()).unwrap();
    viewer.0.events().clear();
    let before = viewer.messages().len();
    viewer.0.go_offline();
    viewer.0.go_online();
    assert_eq!(viewer.messages().len(), before);
    let told = viewer
        .0
        .events()
        .waiting(|event| (event.member == "NewDebugMessage").then_some(()));
    assert!(told.is_empty());
}

#[test]
fn levels_change_what_is_written() {
    let viewer = Viewer::new();
    let levels = |viewer: &Viewer| String::try_from(viewer.get(LEVELS, "Levels")).unwrap();
    assert_eq!(levels(&viewer), "info");
    for wrong in ["loud", "", "pneuma"] {
        let refused = viewer.set(LEVELS, "Levels", wrong.into());
        assert_eq!(refused, Err("InvalidArgs".into()), "{wrong}");
    }
    assert_eq!(levels(&viewer), "info");
    viewer
        .set(LEVELS, "Levels", "info,pneuma=debug".into())
        .unwrap();
    assert_eq!(levels(&viewer), "info,pneuma=debug");
    viewer.0.go_online();
    viewer.0.until("Debug is in its log", || {
        viewer.0.output().contains("DEBUG pneuma::").then_some(())
    });
}
