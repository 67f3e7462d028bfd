//! Plans: what they print reads back, and every change of one is another one, or is refused in a sentence.

#[path = "../../contrib/fuzz/checks.rs"]
mod checks;
mod corpus;
mod edits;
mod settings;
mod stage;
mod tables;
mod yaml;
