//! The tests of the load generator, which as an example is only built, not tested, by `cargo test`.

#[path = "load/main.rs"]
#[expect(dead_code, reason = "its main function runs in the example")]
mod load;
