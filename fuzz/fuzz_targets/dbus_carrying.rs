//! A D-Bus tube, with a contact and applications that come and go.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pneuma::fuzzing::dbus_carrying(data));
