//! What a contact and a client send about a shared bus service.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| pneuma::fuzzing::sharing(data));
