#![no_main]

#[path = "../checks.rs"]
#[allow(dead_code)] // Each target is one of them.
mod checks;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    checks::table(bytes);
});
