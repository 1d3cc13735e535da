//! busctl, gdbus and playerctl control a player on a bus that they cannot reach.

use smol::future::block_on;
use support::PATIENCE;

use crate::halves::{Halves, NAME, PATH, PLAYER, Player};

/// Has the player say that its volume is this now.
fn emit_volume(halves: &Halves, volume: f64) {
    block_on(async {
        let server = halves.player.object_server();
        let player = server
            .interface::<_, Player>(PATH)
            .await
            .expect("the player");
        player.get_mut().await.volume = volume;
        let emitter = player.signal_emitter();
        player
            .get()
            .await
            .volume_changed(emitter)
            .await
            .expect("a signal");
    });
}

#[test]
fn busctl_calls_reads_writes_and_looks_around() {
    let halves = Halves::start(|filter| filter);
    halves.wait_for_service();
    let open = ["call", NAME, PATH, PLAYER, "OpenUri", "s", "file:///a.ogg"];
    let (went, said) = halves.busctl(&open);
    assert!(went, "{said}");
    assert_eq!(*halves.played.lock().unwrap(), ["file:///a.ogg"]);

    let (went, said) = halves.busctl(&["get-property", NAME, PATH, PLAYER, "Volume"]);
    assert!(went && said.contains("d 0.5"), "{said}");
    let (went, said) = halves.busctl(&["set-property", NAME, PATH, PLAYER, "Volume", "d", "0.25"]);
    assert!(went, "{said}");
    let (went, said) = halves.busctl(&["get-property", NAME, PATH, PLAYER, "Volume"]);
    assert!(went && said.contains("d 0.25"), "{said}");

    let (went, said) = halves.busctl(&["introspect", NAME, PATH]);
    assert!(went && said.contains("OpenUri"), "{said}");
    let (went, said) = halves.busctl(&["list"]);
    assert!(
        went && said.contains(NAME) && said.contains(":1.1"),
        "{said}"
    );
    let (went, said) = halves.busctl(&[
        "introspect",
        "org.freedesktop.DBus",
        "/org/freedesktop/DBus",
    ]);
    assert!(went && said.contains("ListActivatableNames"), "{said}");
    let (went, said) = halves.busctl(&["tree", NAME]);
    assert!(went && said.contains(PATH), "{said}");
}

#[test]
fn gdbus_hears_signals_and_that_the_service_comes_and_goes() {
    let halves = Halves::start(|filter| filter);
    halves.wait_for_service();
    let monitor = halves.program("gdbus", &["monitor", "--session", "--dest", NAME]);
    monitor.wait_for_line(PATIENCE, |line| {
        line.contains("is owned by :1.1").then_some(())
    });
    // It asks for signals after it has said that; so once until it hears one.
    let heard = (0..1000).any(|_| {
        emit_volume(&halves, 0.0);
        let (went, said) =
            halves.busctl(&["call", NAME, PATH, "org.freedesktop.DBus.Peer", "Ping"]);
        assert!(went, "{said}");
        monitor.output().contains("PropertiesChanged")
    });
    assert!(heard, "{}", monitor.output());
    // From then on, all of them, in order.
    for volume in 1..=50 {
        emit_volume(&halves, f64::from(volume));
    }
    monitor.wait_for_line(PATIENCE, |line| {
        line.contains("'Volume': <50.0>").then_some(())
    });
    let output = monitor.output();
    let places: Vec<_> = (1..=50)
        .map(|volume| output.find(&format!("'Volume': <{volume}.0>")))
        .collect();
    assert!(
        places.iter().all(Option::is_some) && places.is_sorted(),
        "{output}"
    );
    block_on(halves.player.release_name(NAME)).expect("a name released");
    monitor.wait_for_line(PATIENCE, |line| {
        line.contains("does not have an owner").then_some(())
    });
    let call = [
        "call",
        "--session",
        "--dest",
        NAME,
        "--object-path",
        PATH,
        "--method",
    ];
    let play = [call.as_slice(), &["org.mpris.MediaPlayer2.Player.Play"]].concat();
    let (went, said) = halves.run("gdbus", &play);
    assert!(!went && said.contains("ServiceUnknown"), "{said}");

    block_on(halves.player.request_name(NAME)).expect("the name again");
    halves.wait_for_service();
    let (went, said) = halves.run("gdbus", &play);
    assert!(went, "{said}");
    assert_eq!(*halves.played.lock().unwrap(), ["play"]);
}

#[test]
fn playerctl_controls_a_player_elsewhere() {
    let halves = Halves::start(|filter| filter.object(PATH).expect("a path"));
    halves.wait_for_service();
    let (went, said) = halves.run("playerctl", &["--list-all"]);
    assert!(went && said.contains("pneuma"), "{said}");
    let (went, said) = halves.run("playerctl", &["status"]);
    assert!(went && said.contains("Playing"), "{said}");
    let (went, said) = halves.run("playerctl", &["pause"]);
    assert!(went, "{said}");
    assert_eq!(*halves.played.lock().unwrap(), ["pause"]);
}
