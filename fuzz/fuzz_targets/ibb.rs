//! In-band bytestreams (XEP-0047): one end.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pneuma::fuzzing::ibb(data));
