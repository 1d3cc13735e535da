//! What somebody writes into a D-Bus tube.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pneuma::fuzzing::dbus_messages(data));
