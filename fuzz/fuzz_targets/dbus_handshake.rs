//! How an application greets at a D-Bus tube.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pneuma::fuzzing::dbus_handshake(data));
